// Objects made of IR, and the image of three of them that call each other.
#pragma once

#include "lto/image.h"
#include "lto/image_info.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <gtest/gtest.h>

namespace ujit::image_bed {

using Bytes = std::vector<uint8_t>;

/// IR to an object, with the options that the code generator uses.
inline Bytes compile(const std::string &ir) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  LLVMInitializeX86AsmParser();
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  auto module = llvm::parseAssemblyString(ir, diagnostic, context);
  if (!module) {
    ADD_FAILURE() << diagnostic.getMessage().str() << ": " << diagnostic.getLineContents().str();
    return {};
  }
  std::string error, triple = "x86_64-unknown-linux-gnu";
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, error);
  llvm::TargetOptions options;
  options.EmitStackSizeSection = true;
  std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(triple, "x86-64", "", options, llvm::Reloc::PIC_, llvm::CodeModel::Small,
                                  llvm::CodeGenOptLevel::Default));
  module->setTargetTriple(triple);
  module->setDataLayout(machine->createDataLayout());
  llvm::SmallVector<char, 0> out;
  llvm::raw_svector_ostream stream(out);
  llvm::legacy::PassManager passes;
  EXPECT_FALSE(machine->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::ObjectFile));
  passes.run(*module);
  return {out.begin(), out.end()};
}

inline const std::string attributes =
    "\nattributes #0 = { noredzone nounwind uwtable \"frame-pointer\"=\"all\" }\n";

/// Entry: 100-byte frame, a switch by jump table, a table of constants, a string, a call into the second
/// object.
inline const std::string first_ir = R"(
@table = internal constant [4 x i32] [i32 10, i32 200, i32 3000, i32 40000]
@text = private unnamed_addr constant [4 x i8] c"abc\00", align 1
declare hidden preserve_nonecc i64 @leaf(i64)
declare i64 @bpf_helper(i64)
define i64 @entry(i64 %x, i64 %y) #0 {
  %buffer = alloca [100 x i8]
  call void asm sideeffect "", "r"(ptr %buffer)
  switch i64 %x, label %other [ i64 0, label %a  i64 1, label %b  i64 2, label %c  i64 3, label %d  i64 4, label %e ]
a:
  %i = getelementptr [4 x i32], ptr @table, i64 0, i64 %y
  %v = load i32, ptr %i
  %w = zext i32 %v to i64
  ret i64 %w
b:
  %r = call preserve_nonecc i64 @leaf(i64 %y)
  ret i64 %r
c:
  %h = call i64 @bpf_helper(i64 %y)
  ret i64 %h
d:
  %s = getelementptr [4 x i8], ptr @text, i64 0, i64 %y
  %k = load i8, ptr %s
  %l = zext i8 %k to i64
  ret i64 %l
e:
  %q = call i64 @own(i64 %y)
  ret i64 %q
other:
  ret i64 -1
}
define internal i64 @own(i64 %y) noinline #0 {
  %r = mul i64 %y, 3
  ret i64 %r
}
)" + attributes;

inline const std::string second_ir = R"(
@table = internal constant [4 x i32] [i32 1, i32 2, i32 3, i32 4]
declare hidden preserve_nonecc i64 @next(i64)
define hidden preserve_nonecc i64 @leaf(i64 %y) #0 {
  %buffer = alloca [100 x i8]
  call void asm sideeffect "", "r"(ptr %buffer)
  %i = getelementptr [4 x i32], ptr @table, i64 0, i64 %y
  %v = load i32, ptr %i
  %w = zext i32 %v to i64
  %r = musttail call preserve_nonecc i64 @next(i64 %w)
  ret i64 %r
}
)" + attributes;

inline const std::string third_ir = R"(
define hidden preserve_nonecc i64 @next(i64 %y) #0 {
  %buffer = alloca [200 x i8]
  call void asm sideeffect "", "r"(ptr %buffer)
  %r = add i64 %y, 1000
  ret i64 %r
}
)" + attributes;

inline ImageInfo info_of(std::vector<std::string> entries, std::vector<std::string> helpers) {
  ImageInfo info;
  info.name = "test";
  info.target = "x86_64-unknown-linux-gnu x86-64";
  info.form = "object";
  info.helpers = std::move(helpers);
  for (const std::string &e : entries) {
    info.entries.push_back({"prog_" + e, e, ProgType::xdp});
    info.programs.push_back({"prog_" + e, std::string(64, 'a'), "", "a.bpf.o", 10, {}});
  }
  return info;
}

inline Bytes merged(const std::vector<Bytes> &objects, const ImageInfo &info) {
  auto image = write_image(objects, info);
  if (!image) {
    ADD_FAILURE() << llvm::toString(image.takeError());
    return {};
  }
  return std::move(*image);
}

template <class T>
std::string message(Expected<T> result) {
  if (result)
    return "no error";
  return llvm::toString(result.takeError());
}

inline std::vector<Bytes> three_objects() {
  return {compile(first_ir), compile(second_ir), compile(third_ir)};
}

} // namespace ujit::image_bed
