// A tiny image for tests of modules and stubs: one entry which does what a map tells it to do.
#pragma once

#include "kernel-iface/linux/module.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ujit::test {

/// Value of the map that steers the image. Its address is the first word of the instance.
struct Control {
  uint64_t mode = 0;
  uint64_t index = 0;    ///< mode 1 and 3: where it leaves to
  uint64_t calls = 0;    ///< of the image
  uint64_t time = 0;     ///< mode 0: bpf_ktime_get_ns()
  uint64_t resumes = 0;  ///< of the image, with the frame as it was left
  uint64_t original = 0; ///< runs of the original program
  uint64_t target = 0;   ///< runs of the program that is tail-called
};

constexpr uint32_t image_frame = 48;

/// mode 0: 2; mode 1: leaves through array 0 to `index`, resumes at 5 with 1; mode 2: -1 as 32 bits; mode 3:
/// leaves whatever happens.
inline constexpr const char *image_ir = R"(
target triple = "x86_64-unknown-linux-gnu"
declare i64 @bpf_ktime_get_ns() #0
define internal i64 @answer(i64 %x) noinline #0 {
  %y = add i64 %x, 2
  ret i64 %y
}
define i64 @test_image(ptr %ctx, ptr %instance, i32 %where, ptr %frame) #0 {
  %control = load ptr, ptr %instance
  %calls.at = getelementptr i8, ptr %control, i64 16
  %calls = atomicrmw add ptr %calls.at, i64 1 monotonic
  %mode = load i64, ptr %control
  %last = getelementptr i8, ptr %frame, i64 40
  switch i64 %mode, label %plain [ i64 1, label %leaves
                                   i64 2, label %minus
                                   i64 3, label %leave ]
plain:
  %time = call i64 @bpf_ktime_get_ns()
  %time.at = getelementptr i8, ptr %control, i64 24
  store i64 %time, ptr %time.at
  %two = call i64 @answer(i64 0)
  ret i64 %two
minus:
  ret i64 4294967295
leaves:
  %first = icmp eq i32 %where, 0
  br i1 %first, label %leave, label %resume
leave:
  store i64 1234605616436508552, ptr %frame
  store i64 81985529216486895, ptr %last
  %index.at = getelementptr i8, ptr %control, i64 8
  %index = load i64, ptr %index.at
  %out = or i64 %index, -9223372015379939328
  ret i64 %out
resume:
  %a = load i64, ptr %frame
  %b = load i64, ptr %last
  %a.good = icmp eq i64 %a, 1234605616436508552
  %b.good = icmp eq i64 %b, 81985529216486895
  %five = icmp eq i32 %where, 5
  %ab = and i1 %a.good, %b.good
  %good = and i1 %ab, %five
  %n = zext i1 %good to i64
  %resumes.at = getelementptr i8, ptr %control, i64 32
  %old = atomicrmw add ptr %resumes.at, i64 %n monotonic
  ret i64 %n
}
attributes #0 = { nounwind noredzone noimplicitfloat fn_ret_thunk_extern "frame-pointer"="all"
                  "target-features"="-sse,-sse2,-mmx,-x87,-avx,+harden-sls-ret,+harden-sls-ijmp" }
)";

/// `ir` as the linker compiles for kernels.
inline std::vector<uint8_t> compile_image(const std::string &ir = image_ir) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  auto module = llvm::parseAssemblyString(ir, diagnostic, context);
  if (!module) {
    ADD_FAILURE() << diagnostic.getLineNo() << ": " << diagnostic.getMessage().str();
    return {};
  }
  std::string error;
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(module->getTargetTriple(), error);
  std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(module->getTargetTriple(), "x86-64", "", {}, llvm::Reloc::Static,
                                  llvm::CodeModel::Kernel, llvm::CodeGenOptLevel::Default));
  module->setDataLayout(machine->createDataLayout());
  llvm::SmallVector<char, 0> object;
  llvm::raw_svector_ostream os(object);
  llvm::legacy::PassManager passes;
  if (machine->addPassesToEmitFile(passes, os, nullptr, llvm::CodeGenFileType::ObjectFile))
    ADD_FAILURE() << "no object files";
  passes.run(*module);
  return {object.begin(), object.end()};
}

} // namespace ujit::test
