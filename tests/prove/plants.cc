#include "tests/prove/plants.h"

#include "tests/prove/snippet.h"

#include "translator/assembler.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/SourceMgr.h"

namespace ujit::prove {
namespace {

constexpr std::string_view taken = "if r1 s< r2 goto +2\nr0 = r5\nexit\nr0 = r5\nr0 ^= -1\nexit";

// clang-format off
constexpr Plant all[] = {
  {"shift count not masked",            "r1 <<= r2\nr0 = r1\nexit",   "63", "-1"},
  {"32-bit shift masked as 64",         "w1 >>= w2\nr0 = r1\nexit",   "31", "63"},
  {"logical for arithmetic shift",      "r1 s>>= r2\nr0 = r1\nexit",  "ashr", "lshr"},
  {"divisor not guarded",               "r1 /= r2\nr0 = r1\nexit",    "i64 1, i64", "i64 0, i64"},
  {"divide first, select afterwards",   "r1 %= r2\nr0 = r1\nexit",    "i64 1, i64 %3", "i64 %3, i64 %3"},
  {"INT_MIN / -1 not guarded",          "r1 s/= r2\nr0 = r1\nexit",   "or i1 %9, %8", "or i1 %9, %9"},
  {"INT_MIN % -1 not guarded",          "w1 s%= w2\nr0 = r1\nexit",   "or i1 %11, %10", "or i1 %11, %11"},
  {"unsigned for signed division",      "r1 s/= r2\nr0 = r1\nexit",   "sdiv", "udiv"},
  {"signed for unsigned remainder",     "r1 %= r2\nr0 = r1\nexit",    "urem", "srem"},
  {"x / 0 is x",                        "r1 /= r2\nr0 = r1\nexit",    "i64 0, i64 %", "i64 %2, i64 %"},
  {"result sign-extended",              "w1 += w2\nr0 = r1\nexit",    "zext", "sext"},
  {"immediate zero-extended",           "r1 &= -2\nr0 = r1\nexit",    "-2", "4294967294"},
  {"addition said not to wrap",         "r1 += r2\nr0 = r1\nexit",    "add i64", "add nsw i64"},
  {"product said not to wrap",          "r1 *= r2\nr0 = r1\nexit",    "mul i64", "mul nuw i64"},
  {"disjoint or",                       "r1 |= r2\nr0 = r1\nexit",    "or i64", "or disjoint i64"},
  {"exact shift",                       "r1 >>= 3\nr0 = r1\nexit",    "lshr i64", "lshr exact i64"},
  {"non-negative extension",            "w1 = w2\nr0 = r1\nexit",     "zext i32", "zext nneg i32"},
  {"truncation said to lose nothing",   "w1 = w2\nr0 = r1\nexit",     "trunc i64", "trunc nuw i64"},
  {"movsx zero-extends",                "r1 = (s8)r2\nr0 = r1\nexit", "sext", "zext"},
  {"swap of the wrong width",           "r1 = be16 r1\nr0 = r1\nexit", "zext i16", "sext i16"},
  {"bytes not swapped",                 "r1 = bswap64 r1\nr0 = r1\nexit", "call i64 @llvm.bswap.i64(i64 %2)", "add i64 %2, 0"},
  {"unsigned for signed comparison",    taken, "icmp slt", "icmp ult"},
  {"comparison off by one",             taken, "icmp slt", "icmp sle"},
  {"comparison of poison",              taken, "icmp slt i64 %2", "icmp slt i64 poison"},
};
// clang-format on

/// The text of a module again as a module, or an error with the parser's message.
Expected<std::unique_ptr<llvm::Module>> parse(const std::string &text, llvm::LLVMContext &context) {
  llvm::SMDiagnostic diagnostic;
  if (auto module = llvm::parseAssemblyString(text, diagnostic, context))
    return module;
  return llvm::createStringError("the planted IR does not parse: " + diagnostic.getMessage() + ": " +
                                 diagnostic.getLineContents());
}

Expected<std::string> check(const Plant &plant, z3::context &solver) {
  Expected<Assembly> assembly = assemble(plant.code);
  if (!assembly)
    return assembly.takeError();
  Snippet snippet{assembly->insns, 0};
  std::vector<Encoded> code = encode(snippet.code);
  llvm::LLVMContext context;
  Expected<Translated> t = translate_snippet(snippet, context, nullptr);
  if (!t)
    return t.takeError();
  if (Verdict v = prove(solver, *t->function, code); v.kind != Verdict::proved)
    return llvm::createStringError("not proved without the mistake: " + v.text);

  std::string name = t->function->getName().str(), text;
  llvm::raw_string_ostream os(text);
  t->module->print(os, nullptr);
  size_t at = text.find(plant.from, text.find(name + "(ptr %0"));
  if (at == std::string::npos)
    return llvm::createStringError("nothing to replace in:\n" + text);
  text.replace(at, plant.from.size(), plant.to);
  Expected<std::unique_ptr<llvm::Module>> planted = parse(text, context);
  if (!planted)
    return planted.takeError();
  Verdict v = prove(solver, *(*planted)->getFunction(name), code);
  if (v.kind != Verdict::refuted)
    return llvm::createStringError(v.kind == Verdict::proved ? "proved, although it is wrong"
                                                             : "undecided: " + v.text);
  return v.text;
}

} // namespace

std::span<const Plant> plants() { return all; }

bool notices(const Plant &plant, z3::context &solver, std::string &line) {
  Expected<std::string> found = check(plant, solver);
  bool ok = bool(found);
  line = llvm::formatv("{0} {1}: {2}\n", ok ? "noticed  planted:" : "FAILED   planted:", plant.name,
                       ok ? *found : llvm::toString(found.takeError()));
  return ok;
}

} // namespace ujit::prove
