// Joins are split where the question behind them is asked again, and only there.
#include "lto/passes.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/SourceMgr.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// A header that may be there, and `again` times the question whether it was.
std::string asks(unsigned again, bool loops = false) {
  std::string text = R"(
declare void @use(i64)
define i64 @f(i64 %type, i64 %tag) {
entry:
  %plain = icmp eq i64 %type, 8
  br i1 %plain, label %join, label %tagged
tagged:
  %fits = icmp ult i64 %tag, 4096
  br i1 %fits, label %join, label %out
join:
  %offset = phi i64 [ 14, %entry ], [ 18, %tagged ])";
  text += loops ? ", [ %offset, %last ]\n" : "\n";
  text += "  call void @use(i64 %offset)\n  br label %q0\n";
  for (unsigned i = 0; i < again; ++i) {
    const std::string n = std::to_string(i), next = i + 1 == again ? "last" : "q" + std::to_string(i + 1);
    text += "q" + n + ":\n  br i1 %plain, label %" + next + ", label %t" + n + "\nt" + n +
            ":\n  call void @use(i64 %tag)\n  br label %" + next + "\n";
  }
  if (again == 0)
    text += "q0:\n  br label %last\n";
  text += loops ? "last:\n  %more = icmp ugt i64 %tag, 7\n  br i1 %more, label %join, label %out\n"
                : "last:\n  %sum = add i64 %offset, 1\n  br label %out\n";
  text += loops ? "out:\n  ret i64 0\n}\n"
                : "out:\n  %result = phi i64 [ 0, %tagged ], [ %sum, %last ]\n  ret i64 %result\n}\n";
  return text;
}

struct Parsed {
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  llvm::Function *f = nullptr;

  explicit Parsed(const std::string &text) {
    llvm::SMDiagnostic error;
    module = llvm::parseAssemblyString(text, error, context);
    EXPECT_TRUE(module) << error.getMessage().str() << "\n" << text;
    f = module->getFunction("f");
  }
  bool split(size_t limit = 4000) {
    const llvm::DominatorTree tree(*f);
    const bool changed = split_paths(*f, tree, limit);
    EXPECT_FALSE(llvm::verifyFunction(*f, &llvm::errs()));
    return changed;
  }
  llvm::BasicBlock *block(llvm::StringRef name) {
    for (llvm::BasicBlock &b : *f)
      if (b.getName() == name)
        return &b;
    return nullptr;
  }
};

TEST(SplitPaths, EachAnswerGetsWhatFollows) {
  Parsed p(asks(2));
  ASSERT_TRUE(p.split());
  llvm::BasicBlock *yes = p.block("join.yes");
  ASSERT_TRUE(yes);
  EXPECT_EQ(yes->getSinglePredecessor(), p.block("entry"));
  EXPECT_EQ(p.block("join")->getSinglePredecessor(), p.block("tagged"));
  EXPECT_TRUE(p.block("q1.yes"));
  auto &result = *p.block("out")->phis().begin();
  EXPECT_EQ(result.getNumIncomingValues(), 3u);
  EXPECT_NE(result.getIncomingValueForBlock(p.block("last.yes")),
            result.getIncomingValueForBlock(p.block("last")));
}

/// The same with three answers, as a switch and as comparisons.
std::string chooses(bool one_way_for_each) {
  return std::string(R"(
declare void @use(i64)
define i64 @f(i64 %packet, i64 %tag) {
entry:
  %type = and i64 %packet, 255
  switch i64 %type, label %out [
    i64 8, label %)") +
         (one_way_for_each ? "join" : "plain") + R"(
    i64 9, label %)" +
         (one_way_for_each ? "tagged" : "plain") + R"(
    i64 10, label %tagged)" +
         (one_way_for_each ? "\n    i64 11, label %plain" : "") + R"(
  ]
plain:
  br label %join
tagged:
  call void @use(i64 %tag)
  br label %join
join:
  %offset = phi i64 [ 18, %tagged ], [ 14, %)" +
         (one_way_for_each ? "entry ], [ 15, %plain" : "plain") + R"( ]
  switch i64 %type, label %out [
    i64 8, label %rest
    i64 9, label %again
    i64 10, label %again
  ]
again:
  call void @use(i64 %offset)
  br label %rest
rest:
  %is = icmp eq i64 %type, 8
  br i1 %is, label %out, label %last
last:
  br label %out
out:
  %result = phi i64 [ 0, %entry ], [ 1, %join ], [ %offset, %rest ], [ 2, %last ]
  ret i64 %result
})";
}

TEST(SplitPaths, AnswersOfASwitch) {
  Parsed p(chooses(true));
  ASSERT_TRUE(p.split());
  ASSERT_TRUE(p.block("join.yes"));
  EXPECT_EQ(p.block("join.yes")->getSinglePredecessor(), p.block("entry"));
  EXPECT_TRUE(p.block("rest.yes"));
}

TEST(SplitPaths, AnswersThatShareAWayOfASwitchStayTogether) {
  Parsed p(chooses(false));
  ASSERT_TRUE(p.split()) << "10 has a way of its own";
  EXPECT_EQ(p.block("join.yes")->getSinglePredecessor(), p.block("tagged"));
}

TEST(SplitPaths, OneQuestionIsNotEnough) {
  EXPECT_FALSE(Parsed(asks(1)).split());
  EXPECT_FALSE(Parsed(asks(0)).split());
}

TEST(SplitPaths, NotBeyondTheLimit) {
  const size_t size = Parsed(asks(3)).f->getInstructionCount();
  EXPECT_FALSE(Parsed(asks(3)).split(size + 4));
  EXPECT_TRUE(Parsed(asks(3)).split(2 * size));
}

TEST(SplitPaths, NotTheHeadOfALoop) { EXPECT_FALSE(Parsed(asks(2, true)).split()); }

} // namespace
} // namespace ujit
