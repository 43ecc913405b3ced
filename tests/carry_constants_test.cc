// Constants in state are carried to loads behind joins, and nothing else is.
#include "lto/analyses.h"
#include "lto/optimise.h"
#include "lto/passes.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/SourceMgr.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// Two ways, `left` and `right`, to a load of two bytes at 48; the result is what the load became.
class CarryConstants : public testing::Test {
protected:
  llvm::Value *carried(const std::string &left, const std::string &right,
                       const std::string &load = "load i16, ptr %slot", const std::string &before = "") {
    const std::string text = R"(
      declare void @anything()
      declare ptr @lookup()
      define i64 @f(ptr %context, i64 %x) {
      entry:
        %slot = getelementptr i8, ptr %context, i64 48
        %wide = getelementptr i8, ptr %context, i64 44
        %other = getelementptr i8, ptr %context, i64 50
      )" + before + R"(
        %c = icmp eq i64 %x, 0
        br i1 %c, label %left, label %right
      left:
        )" + left + "\n  br label %join\nright:\n  " +
                             right + R"(
        br label %join
      join:
        %v = )" + load + R"(
        %r = zext i16 %v to i64
        ret i64 %r
      })";
    llvm::SMDiagnostic why;
    module_ = llvm::parseAssemblyString(text, why, context_);
    if (!module_) {
      ADD_FAILURE() << why.getMessage().str() << text;
      return nullptr;
    }
    llvm::Function &f = *module_->getFunction("f");
    auto tm = make_target_machine("native", Effort::full);
    Analyses analyses(**tm, context_);
    auto &fam = analyses.functions;
    changed_ = carry_constants(f, fam.getResult<llvm::AAManager>(f),
                               fam.getResult<llvm::MemorySSAAnalysis>(f).getMSSA());
    fam.getResult<llvm::MemorySSAAnalysis>(f).getMSSA().verifyMemorySSA();
    EXPECT_FALSE(llvm::verifyFunction(f, &llvm::errs()));
    auto *ret = llvm::cast<llvm::ReturnInst>(f.back().getTerminator());
    return llvm::cast<llvm::ZExtInst>(ret->getReturnValue())->getOperand(0);
  }
  void expect_load(llvm::Value *v) {
    EXPECT_FALSE(changed_);
    EXPECT_TRUE(v && llvm::isa<llvm::LoadInst>(v));
  }
  static std::vector<uint64_t> constants(llvm::Value *v) {
    std::vector<uint64_t> out;
    if (auto *phi = llvm::dyn_cast_or_null<llvm::PHINode>(v))
      for (llvm::Value *way : phi->incoming_values())
        out.push_back(llvm::cast<llvm::ConstantInt>(way)->getZExtValue());
    return out;
  }
  using Constants = std::vector<uint64_t>;

  llvm::LLVMContext context_;
  std::unique_ptr<llvm::Module> module_;
  bool changed_ = false;
};

TEST_F(CarryConstants, AJoinOfConstantsIsAPhi) {
  EXPECT_EQ(constants(carried("store i16 14, ptr %slot", "store i16 18, ptr %slot")), (Constants{14, 18}));
}

TEST_F(CarryConstants, WhatOneWayLeavesIsFromBefore) {
  EXPECT_EQ(
      constants(carried("store i16 14, ptr %slot", "", "load i16, ptr %slot", "store i16 1, ptr %slot")),
      (Constants{14, 1}));
}

TEST_F(CarryConstants, APartOfAWiderStoreIsCutOut) {
  EXPECT_EQ(constants(carried("store i64 1311768467463790320, ptr %wide", "store i16 3, ptr %slot")),
            (Constants{0x5678, 3}))
      << "bytes 4 and 5 of 0x123456789abcdef0";
  auto *c = llvm::dyn_cast_or_null<llvm::ConstantInt>(carried(
      "", "store i16 9, ptr %other", "load i16, ptr %slot", "store i64 1311768467463790320, ptr %wide"));
  ASSERT_TRUE(c) << "no join is needed where all ways have it from one store";
  EXPECT_EQ(c->getZExtValue(), 0x5678u);
}

TEST_F(CarryConstants, NotWhereAWayHasNoConstant) {
  expect_load(carried("store i16 14, ptr %slot", ""));
  expect_load(carried("store i16 14, ptr %slot", "%n = trunc i64 %x to i16\nstore i16 %n, ptr %slot"));
  expect_load(carried("store i16 14, ptr %slot", "store i16 18, ptr %slot\ncall void @anything()"));
}

TEST_F(CarryConstants, NotWhereOnlyAPartWasStored) {
  expect_load(carried("store i16 14, ptr %slot", "store i8 18, ptr %slot"));
  expect_load(carried("store i16 14, ptr %slot", "store i16 18, ptr %slot\nstore i8 1, ptr %slot"));
}

TEST_F(CarryConstants, NotOfMemoryThatMayBeElsewhereTheNextTime) {
  expect_load(
      carried("store i16 14, ptr %p", "store i16 18, ptr %p", "load i16, ptr %p", "%p = call ptr @lookup()"));
}

TEST_F(CarryConstants, NotWhatIsOrdered) {
  expect_load(carried("store i16 14, ptr %slot", "store i16 18, ptr %slot",
                      "load atomic i16, ptr %slot acquire, align 2"));
  expect_load(carried("store i16 14, ptr %slot", "store i16 18, ptr %slot", "load volatile i16, ptr %slot"));
  expect_load(carried("store i16 14, ptr %slot", "store i16 18, ptr %slot",
                      "load atomic i16, ptr %slot unordered, align 2")); // a plain store may be torn
}

TEST(CarryConstantsInLoops, ARoundSeesWhatTheLastOneLeft) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic why;
  auto module = llvm::parseAssemblyString(R"(
    define i64 @f(ptr %context, i64 %n) {
    entry:
      %slot = getelementptr i8, ptr %context, i64 48
      store i32 1, ptr %slot
      br label %round
    round:
      %i = phi i64 [ 0, %entry ], [ %next, %round ]
      %sum = phi i64 [ 0, %entry ], [ %more, %round ]
      %v = load i32, ptr %slot
      store i32 2, ptr %slot
      %wide = zext i32 %v to i64
      %more = add i64 %sum, %wide
      %next = add i64 %i, 1
      %done = icmp uge i64 %next, %n
      br i1 %done, label %out, label %round
    out:
      ret i64 %more
    })",
                                          why, context);
  ASSERT_TRUE(module) << why.getMessage().str();
  llvm::Function &f = *module->getFunction("f");
  auto tm = make_target_machine("native", Effort::full);
  Analyses analyses(**tm, context);
  auto &fam = analyses.functions;
  EXPECT_TRUE(carry_constants(f, fam.getResult<llvm::AAManager>(f),
                              fam.getResult<llvm::MemorySSAAnalysis>(f).getMSSA()));
  EXPECT_FALSE(llvm::verifyFunction(f, &llvm::errs()));
  std::vector<uint64_t> values;
  for (llvm::PHINode &phi : f.back().getPrevNode()->phis())
    if (phi.getType()->isIntegerTy(32))
      for (llvm::Value *v : phi.incoming_values())
        values.push_back(llvm::cast<llvm::ConstantInt>(v)->getZExtValue());
  EXPECT_EQ(values, (std::vector<uint64_t>{1, 2}));
}

} // namespace
} // namespace ujit
