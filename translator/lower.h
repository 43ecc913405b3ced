// Bytecode to LLVM IR, one program at a time.
//
// The module that comes out is not yet bound to anything: maps, instance constants and tail calls are
// symbols, which the fusing phase (lto/fuse.cc) replaces once it knows the whole pipeline.
//
//   ujit.<program>            i64 (ptr context, ptr instance, i64 count)     the program
//   ujit.<program>.<sub>      i64 (ptr instance, i64 count, r1 ... r5)       a subprogram, internal
//   @ujit.map.N               the address of map N, as helpers take it
//   @ujit.values.N            the address of element 0 of map N (data maps, arrays; per-CPU: this CPU's)
//   @ujit.bound.N.K           an i64 in the instance: bound constant K of map N
//   @ujit.cpu                 an i64 in the instance: number of this CPU
//   @ujit.percpu.N.K          verified form: this CPU's value of element K of per-CPU array N. There,
//   values.N of
//                             a per-CPU array is its table of per-CPU pointers, and @ujit.cpu is not
//   @ujit.table.N             verified form: u32 seed, u32 mask of hash table N, in the instance
//   @ujit.const.N             the contents of a frozen map, as a constant
//   @ujit.lookup.N            ptr (ptr instance, i64 key words ...), fastcc: the value in hash table N, or
//                             null
//   @ujit.tail_call           void (ptr context, ptr map, i32 index, i32 slot): a tail call; comes back if it
//                             fails. With TranslateOptions::leaving, a bundle "ujit.live" of pairs (i32
//                             offset in the leave frame, value) says what is alive behind it
//   ujit-resume.<program>     i64 (ptr context, ptr instance, i64 count, ptr frame)     see ResumePoint
//   @bpf_...                  helpers
#pragma once

#include "translator/profile.h"
#include "translator/program.h"

#include "llvm/IR/Module.h"

namespace llvm {
class IRBuilderBase;
}

namespace ujit {

/// Where a program goes on behind a tail call that left the image and failed: its number, and the call.
struct ResumePoint {
  uint32_t number = 0;
  uint32_t insn = 0;
};

struct TranslateOptions {
  bool debug_info = true;
  /// Tail calls can leave the image (docs/design.md, "Leaving and coming back"): the program has a fourth
  /// argument, the leave frame, and its tail calls say what is alive behind them.
  bool leaving = false;
  /// Not empty: instead of the program, its resume function, which restores the state from the leave frame
  /// and goes on at the point whose number is in it. Needs `leaving`.
  std::vector<ResumePoint> resume = {};
  /// Maps whose values only this pipeline's programs touch, one CPU at a time and within one run, by the
  /// manifest's word: plain loads and stores, in a domain of their own.
  std::vector<bool> scratch;
  const Profile *profile = nullptr; ///< its counts become branch weights; may be null
  /// Facts for the optimiser, each of which can be left out to see what it gives.
  bool alias_domains = true;
  bool helper_effects = true;
  bool inline_lookups = true;
  bool inline_hash_lookups = false; ///< in verified form only where KernelLayout::search_htab says so
  bool inline_helpers = false;      ///< as the embedded kernel has them
  bool inline_updates = false; ///< of arrays; in verified form only where KernelLayout::update_arrays says so
  bool fold_config = true;
  bool branch_hints = true; ///< bounds checks of packets say which way they go
};

/// Errors: what check_program() and the provenance analysis refuse; anything that is not supported, by name.
Expected<std::unique_ptr<llvm::Module>> translate(const Pipeline &pipeline, ProgId program,
                                                  llvm::LLVMContext &context,
                                                  const TranslateOptions &options);

/// Programs of more instructions than this get no phis: their registers live in memory between blocks, which
/// is what fast instruction selection and a register allocator that sees one block at a time are made for.
/// Their functions carry the attribute `huge_attribute`.
constexpr size_t register_memory_limit = 120'000;
constexpr const char huge_attribute[] = "ujit-huge";

/// Verified form: per-CPU variables of the kernel are globals of this address space, relative to GS.
constexpr unsigned gs_address_space = 256;

/// Loads what per-CPU addresses are relative to on this CPU. It does not change while a chain runs.
llvm::Value *this_cpu_offset(llvm::IRBuilderBase &at);

constexpr const char lookup_prefix[] = "ujit.lookup.";
constexpr const char live_bundle[] = "ujit.live";

/// The alias domains that accesses of the context, of the packet, of a map's values carry (TBAA).
llvm::MDNode *context_tag(llvm::LLVMContext &context);
llvm::MDNode *packet_tag(llvm::LLVMContext &context);
llvm::MDNode *values_tag(llvm::LLVMContext &context, const Map &map, bool scratch);

std::string program_symbol(const Program &program);
std::string resume_symbol(const Program &program);
std::string subprogram_symbol(const Program &program, const Subprogram &sub);

/// Triple and data layout of all modules.
void set_target(llvm::Module &module);

/// What all functions of an image have.
void add_code_attributes(llvm::Function &function);

} // namespace ujit
