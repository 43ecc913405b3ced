// Freezes of long functions are calls while passes run that would look through them, and freezes again
// behind.
#include "lto/passes.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/SourceMgr.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// A frozen load and a frozen argument, and `additions`.
std::unique_ptr<llvm::Module> parse(llvm::LLVMContext &context, unsigned additions) {
  std::string text = "define i64 @f(ptr %p, i64 %a) {\n  %l = load ptr, ptr %p\n  %q = freeze ptr %l\n"
                     "  %v0 = freeze i64 %a\n";
  for (unsigned i = 0; i < additions; ++i)
    text += "  %v" + std::to_string(i + 1) + " = add i64 %v" + std::to_string(i) + ", %a\n";
  text += "  store i64 %v" + std::to_string(additions) + ", ptr %q\n  ret i64 %v0\n}\n";
  llvm::SMDiagnostic error;
  auto module = llvm::parseAssemblyString(text, error, context);
  EXPECT_TRUE(module) << error.getMessage().str();
  return module;
}

template <class Kind>
size_t count(const llvm::Function &f) {
  return size_t(llvm::count_if(llvm::instructions(f), [](const auto &i) { return llvm::isa<Kind>(i); }));
}

TEST(Freezes, OfLongFunctionsAreHiddenAndShown) {
  llvm::LLVMContext context;
  auto module = parse(context, 12'000);
  llvm::Function &f = *module->getFunction("f");
  llvm::FunctionAnalysisManager none;
  HideFreezesPass().run(f, none);
  EXPECT_FALSE(llvm::verifyModule(*module, &llvm::errs()));
  EXPECT_EQ(count<llvm::FreezeInst>(f), 0u);
  EXPECT_EQ(count<llvm::CallInst>(f), 2u);
  for (const llvm::Instruction &i : llvm::instructions(f))
    if (auto *call = llvm::dyn_cast<llvm::CallInst>(&i)) {
      EXPECT_TRUE(call->doesNotAccessMemory() && call->willReturn() && call->doesNotThrow());
      EXPECT_TRUE(call->hasRetAttr(llvm::Attribute::NoUndef));
    }
  ShowFreezesPass().run(f, none);
  EXPECT_FALSE(llvm::verifyModule(*module, &llvm::errs()));
  EXPECT_EQ(count<llvm::FreezeInst>(f), 2u);
  EXPECT_EQ(count<llvm::CallInst>(f), 0u);
  EXPECT_EQ(module->size(), 1u) << "no declaration is left";
}

TEST(Freezes, OfOthersStay) {
  llvm::LLVMContext context;
  auto module = parse(context, 20);
  llvm::Function &f = *module->getFunction("f");
  llvm::FunctionAnalysisManager none;
  EXPECT_TRUE(HideFreezesPass().run(f, none).areAllPreserved());
  EXPECT_EQ(count<llvm::FreezeInst>(f), 2u);
  EXPECT_TRUE(ShowFreezesPass().run(f, none).areAllPreserved());
}

} // namespace
} // namespace ujit
