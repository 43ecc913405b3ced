// bpf_conformance writes `jeq %r0, 2, exit` where we write `if r0 == 2 goto exit`. Its files are read by
// rewriting each line; numbers, labels and their errors are then our assembler's business.
#include "tests/support/case_file.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

/// Operand `%r3` as r3 or w3, a number as it is; empty if neither.
std::string operand(StringRef text, char kind) {
  if (text.consume_front("%r"))
    return kind + text.str();
  return text.str();
}

/// `[%r1+4]` as "r1 +4".
std::string address(StringRef text) {
  if (!text.consume_front("[%") || !text.consume_back("]"))
    return "";
  size_t sign = text.find_first_of("+-");
  return sign == StringRef::npos ? text.str() : (text.substr(0, sign) + " " + text.substr(sign)).str();
}

std::string size_type(StringRef suffix) {
  return llvm::StringSwitch<std::string>(suffix)
      .Case("b", "u8").Case("h", "u16").Case("w", "u32").Case("dw", "u64")
      .Case("sb", "s8").Case("sh", "s16").Case("sw", "s32")
      .Default("");
}

std::string arithmetic_symbol(StringRef name) {
  return llvm::StringSwitch<std::string>(name)
      .Case("add", "+=").Case("sub", "-=").Case("mul", "*=").Case("div", "/=").Case("sdiv", "s/=")
      .Case("mod", "%=").Case("smod", "s%=").Case("or", "|=").Case("and", "&=").Case("xor", "^=")
      .Case("lsh", "<<=").Case("rsh", ">>=").Case("arsh", "s>>=").Case("mov", "=")
      .Default("");
}

std::string compare_symbol(StringRef name) {
  return llvm::StringSwitch<std::string>(name)
      .Case("jeq", "==").Case("jne", "!=").Case("jgt", ">").Case("jge", ">=").Case("jlt", "<").Case("jle", "<=")
      .Case("jsgt", "s>").Case("jsge", "s>=").Case("jslt", "s<").Case("jsle", "s<=").Case("jset", "&")
      .Default("");
}

/// `lock [fetch] add32 [%r1+4], %r2`; words are what follows `lock`.
std::string atomic(std::vector<StringRef> words) {
  bool fetch = !words.empty() && words[0] == "fetch";
  if (fetch)
    words.erase(words.begin());
  if (words.size() != 3)
    return "";
  StringRef op = words[0];
  bool narrow = op.consume_back("32");
  std::string where = address(words[1]);
  std::string value = operand(words[2], narrow ? 'w' : 'r');
  const char *suffix = narrow ? "32_32" : "_64";
  if (op == "xchg")
    return formatv("{0} = xchg{1}({2}, {0})", value, suffix, where);
  if (op == "cmpxchg")
    return formatv("{0}0 = cmpxchg{1}({2}, {0}0, {3})", narrow ? 'w' : 'r', suffix, where, value);
  const char *type = narrow ? "u32" : "u64";
  if (fetch)
    return formatv("{0} = atomic_fetch_{1}(({2} *)({3}), {0})", value, op, type, where);
  return formatv("lock *({0} *)({1}) {2} {3}", type, where, arithmetic_symbol(op), value);
}

/// One instruction; empty if it is none.
std::string rewrite(const std::vector<StringRef> &words) {
  StringRef name = words[0];
  size_t count = words.size() - 1;
  if (name == "exit" && count == 0)
    return "exit";
  if (name == "lock")
    return atomic({words.begin() + 1, words.end()});
  if (name == "ja" && count == 1)
    return "goto " + words[1].str();
  if (name == "ja32" && count == 1)
    return "gotol " + words[1].str();
  if (name == "call" && count == 2 && words[1] == "local")
    return "call " + words[2].str();
  if (name == "call" && count == 2 && words[1] == "runtime")
    return "call kfunc " + words[2].str() + ", 0";
  if (name == "call" && (count == 1 || (count == 2 && words[1] == "helper")))
    return (words.back().starts_with("%") ? "callx " : "call ") + operand(words.back(), 'r');
  if (name == "lddw" && count == 2)
    return formatv("{0} = {1} ll", operand(words[1], 'r'), words[2]);
  if (count == 2 && name.starts_with("ldx"))
    return formatv("{0} = *({1} *)({2})", operand(words[1], 'r'), size_type(name.drop_front(3)), address(words[2]));
  if (count == 2 && name.starts_with("stx"))
    return formatv("*({0} *)({1}) = {2}", size_type(name.drop_front(3)), address(words[1]), operand(words[2], 'r'));
  if (count == 2 && name.starts_with("st"))
    return formatv("*({0} *)({1}) = {2}", size_type(name.drop_front(2)), address(words[1]), words[2]);
  if (count == 1 && (name.starts_with("le") || name.starts_with("be") || name.starts_with("bswap")))
    return formatv("{0} = {1} {0}", operand(words[1], 'r'), name);
  if (count == 1 && name.starts_with("swap"))
    return formatv("{0} = b{1} {0}", operand(words[1], 'r'), name);
  if (count == 2 && name.consume_front("movsx")) { // movsx832: 8 to 32 bits
    char kind = name.ends_with("32") ? 'w' : 'r';
    return formatv("{0} = (s{1}){2}", operand(words[1], kind), name.drop_back(2), operand(words[2], kind));
  }
  bool narrow = name.consume_back("32");
  if (!narrow)
    name.consume_back("64");
  char kind = narrow ? 'w' : 'r';
  if (name == "neg" && count == 1)
    return formatv("{0} = -{0}", operand(words[1], kind));
  if (std::string symbol = arithmetic_symbol(name); !symbol.empty() && count == 2)
    return formatv("{0} {1} {2}", operand(words[1], kind), symbol, operand(words[2], kind));
  if (std::string symbol = compare_symbol(name); !symbol.empty() && count == 3)
    return formatv("if {0} {1} {2} goto {3}", operand(words[1], kind), symbol, operand(words[2], kind), words[3]);
  return "";
}

} // namespace

Expected<std::string> translate_conformance(std::string_view text) {
  std::string result;
  bool exit_seen = false;
  uint32_t number = 0;
  for (StringRef rest = text; !rest.empty();) {
    StringRef line;
    std::tie(line, rest) = rest.split('\n');
    number++;
    line = line.split('#').first;
    llvm::SmallVector<StringRef> parts;
    llvm::SplitString(line, parts, " \t\r,");
    std::vector<StringRef> words(parts.begin(), parts.end());
    if (words.empty() || (words.size() == 1 && words[0].ends_with(":"))) {
      result += line.str() + "\n";
      continue;
    }
    std::string insn = rewrite(words);
    if (insn.empty())
      return input_error(formatv("line {0} of the assembly: `{1}` is no instruction", number, line.trim())).error();
    // The first `exit` is a label of that name.
    if (insn == "exit" && !std::exchange(exit_seen, true))
      insn = "exit: exit";
    result += insn + "\n";
  }
  return result;
}

} // namespace ujit
