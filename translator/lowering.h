// The state of translating one subprogram. lower.cc walks the blocks, lower_alu.cc, lower_memory.cc and
// lower_call.cc hold the instructions.
#pragma once

#include "translator/frame.h"
#include "translator/helper.h"
#include "translator/leave_state.h"
#include "translator/lower.h"
#include "translator/provenance.h"

#include "llvm/IR/DIBuilder.h"
#include "llvm/IR/IRBuilder.h"

namespace ujit {

/// What the subprograms of one program share.
struct ProgramLowering {
  const Pipeline &pipeline;
  const Program &program;
  const TranslateOptions &options;
  const ProgramFacts &facts;
  llvm::Module &module;
  std::vector<llvm::Function *> functions; ///< by subprogram; null where unreached
  llvm::DIBuilder *debug = nullptr;
  llvm::DIFile *debug_file = nullptr;
  LeaveState leaving = {};                 ///< where TranslateOptions::leaving
  const ProgramProfile *profile = nullptr; ///< of this program, or null

  llvm::LLVMContext &context() const { return module.getContext(); }
  llvm::GlobalVariable *symbol(const llvm::Twine &name, llvm::Type *type);
  llvm::Value *map_symbol(uint32_t map);
  /// Address of element 0; a frozen map without bound constants is a constant itself.
  llvm::Value *values_symbol(uint32_t map);
  /// Verified form: a per-CPU variable of the kernel.
  llvm::GlobalVariable *percpu_symbol(const llvm::Twine &name, llvm::Type *type);

  // Alias domains: siblings under one root, so that they survive inlining and linking.
  enum class Domain : uint8_t { none, context, packet, io, maps, one_map, scratch };
  /// The manifest says that only this pipeline touches the map, and nobody after a run.
  bool is_scratch(uint32_t map) const { return map < options.scratch.size() && options.scratch[map]; }
  llvm::MDNode *domain_tag(Domain domain, uint32_t map = 0);
  Domain domain_of(const Provenance &p) const;
};

/// Finds an element, not a value: what the verifier calls in place of bpf_map_lookup_elem() on hash tables.
constexpr const char hash_lookup_symbol[] = "__htab_map_lookup_elem";

class Lowering {
public:
  Lowering(ProgramLowering &program, uint32_t subprogram, const FrameLayout &frame);
  Error run();

private:
  using Value = llvm::Value;

  // --- blocks (lower.cc) ---
  void enter_function();
  void enter_block(uint32_t block);
  Error lower_block(uint32_t block);
  void finish_phis();
  void load_registers(uint32_t block);
  void store_registers(uint32_t block);
  /// `value` of provenance `from` as the representation that `to` has; may insert at the builder's position.
  Value *convert(Value *value, const Provenance &from, const Provenance &to);
  Error lower_insn(uint32_t slot, const Insn &insn, const InsnRow &row);
  Error lower_branch(uint32_t block, const Insn &insn, const InsnRow &row);
  llvm::MDNode *branch_weights(uint32_t slot, const Insn &insn, const InsnRow &row);
  llvm::MDNode *likely_way(const Insn &insn, const InsnRow &row);
  void set_location(uint32_t slot);
  Error fail(LinkError e);

  // --- registers (lower.cc) ---
  Value *as_int(unsigned reg) { return to_int(values_[reg], state_.regs[reg]); }
  Value *as_ptr(unsigned reg) { return to_ptr(values_[reg], state_.regs[reg]); }
  Value *to_int(Value *value, const Provenance &p);
  Value *to_ptr(Value *value, const Provenance &p);
  Value *stack_address(int64_t offset);
  Value *operand(const Insn &insn, const InsnRow &row);   ///< i64
  Value *operand32(const Insn &insn, const InsnRow &row); ///< i32
  void write(unsigned reg, Value *value) { values_[reg] = value; }
  void write32(unsigned reg, Value *value);
  static bool has_pointer_form(const Provenance &p) { return p.is_pointer(); }
  static bool is_recomputed(const Provenance &p) { return p.kind == Provenance::stack && p.exact; }

  // --- arithmetic (lower_alu.cc) ---
  Value *alu(Op op, Value *a, Value *b);
  void lower_alu(const Insn &insn, const InsnRow &row);
  void lower_add_sub(const Insn &insn, const InsnRow &row);
  void lower_mov(const Insn &insn, const InsnRow &row);
  void lower_byte_order(const Insn &insn, const InsnRow &row);
  Value *condition(const Insn &insn, const InsnRow &row);

  // --- memory (lower_memory.cc) ---
  struct Access {
    Value *address = nullptr;
    llvm::MDNode *tag = nullptr;
    bool shared = false;    ///< others can read and write it at any time: no access is torn or repeated
    bool one_value = false; ///< others can write it, or nobody has: one load yields one value
    bool aligned = false;   ///< natural alignment is proven
    uint64_t alignment = 1; ///< what is proven beyond that
    bool invariant = false;
  };
  Expected<Access> access(uint32_t slot, unsigned base, int64_t offset, unsigned bits, bool write);
  Error check_atomic(uint32_t slot, const Provenance &base, int64_t offset, unsigned bits);
  /// Whether memory at `base` + `offset` may be bytes of a frame that were never written.
  bool may_be_unset(const Provenance &base, int64_t offset) const;
  Value *load(const Access &a, llvm::Type *type);
  void store(const Access &a, Value *value);
  Error lower_load(uint32_t slot, const Insn &insn, const InsnRow &row);
  Error lower_store(uint32_t slot, const Insn &insn, const InsnRow &row);
  Error lower_atomic(uint32_t slot, const Insn &insn, const InsnRow &row);
  Expected<Access> kernel_context_access(uint32_t slot, unsigned base, int64_t offset, unsigned bits,
                                         bool write);
  Value *frozen_load(const Provenance &base, int64_t offset, unsigned bits);
  Error lower_load_packet(uint32_t slot, const Insn &insn, const InsnRow &row);

  // --- leaving and coming back (lower_resume.cc) ---
  bool is_resume() const { return sub_ == 0 && !p_.options.resume.empty(); }
  /// Values that a tail call has to save, as its operand bundle.
  std::vector<llvm::OperandBundleDef> live_state(uint32_t slot);
  Value *piece_address(int64_t offset);
  Value *to_leave_frame(Value *value, const SavedItem &item);
  Value *from_leave_frame(Value *value, const SavedItem &item);
  /// Ends the entry block: on to the block behind the tail call that failed.
  void resume();
  void restore(const LeaveSite &site, Value *leave_frame, uint32_t block);
  Value *known_value(const Provenance &p);

  // --- what only verified form has (lower_kernel.cc) ---
  void lower_load_probe(const Insn &insn, const InsnRow &row);
  void lower_cpu(uint32_t slot, const Insn &insn);
  Error lower_kernel_call(uint32_t slot);
  Error lower_kernel_variable(uint32_t slot, const Insn &insn);
  bool lower_kernel_lookup(uint32_t slot);
  void lower_hash_lookup(uint32_t map);
  void clobber_call(Value *result);

  // --- 64-bit immediates and calls (lower_call.cc) ---
  Error lower_ld_imm64(uint32_t slot, const Insn &insn, const InsnRow &row);
  Error lower_helper(uint32_t slot, const Insn &insn);
  Error lower_local_call(uint32_t slot, const Insn &insn);
  Error lower_callx(uint32_t slot, const Insn &insn);
  Error lower_tail_call(uint32_t slot);
  /// Arrays by index (lower_array.cc).
  bool is_plain_array(uint32_t map) const;
  bool has_element_table(uint32_t map) const;
  Value *array_index();
  Value *array_element(uint32_t map, Value *index);
  void lower_array_lookup(uint32_t map);
  bool lower_array_update(uint32_t slot, uint32_t map);
  bool has_inline_table(uint32_t map) const;
  void lower_table_lookup(uint32_t map); ///< lower_lookup.cc
  Value *key_word(const Access &key, uint32_t at, uint32_t size);
  void lower_loop(uint32_t slot, uint32_t callback);
  /// Those of lower_helper.cc; false: it stays a call.
  bool lower_small_helper(uint32_t slot, const Helper &helper);
  bool lower_checksum_difference(uint32_t slot);
  Value *sum_words(uint32_t slot, unsigned reg, uint64_t size);
  bool lower_packet_copy(uint32_t slot);
  Value *callback_thunk(uint32_t subprogram);
  llvm::CallInst *call_subprogram(uint32_t callee, llvm::ArrayRef<std::pair<Value *, Provenance>> args);
  void describe_effects(llvm::CallInst *call, const Helper &helper, const HelperEffects *effects);
  std::optional<uint32_t> inlined_callback(uint32_t helper) const;

  llvm::Type *i64() { return builder_.getInt64Ty(); }
  llvm::Type *int_of(unsigned bits) { return builder_.getIntNTy(bits); }

  ProgramLowering &p_;
  const Program &program_;
  uint32_t sub_;
  const SubprogramFacts &facts_;
  const FrameLayout &frame_;
  llvm::Function *function_;
  llvm::IRBuilder<> builder_;
  llvm::DISubprogram *scope_ = nullptr;
  Value *instance_ = nullptr;
  Value *count_ = nullptr;
  std::vector<llvm::AllocaInst *> objects_; ///< by FrameLayout::objects

  std::vector<llvm::BasicBlock *> first_; ///< by block: where its predecessors branch to
  std::vector<llvm::BasicBlock *> last_;  ///< by block: where it ends (calls may split it)
  struct Out {
    std::array<Value *, register_count> values;
    std::array<Provenance, register_count> regs;
  };
  std::vector<Out> out_; ///< by block
  std::vector<uint8_t> done_;
  struct Pending {
    llvm::PHINode *phi;
    uint32_t block;
    unsigned reg;
  };
  std::vector<Pending> phis_;
  /// Blocks that are also entered from outside: by block, from where and with what.
  std::map<uint32_t, std::pair<llvm::BasicBlock *, std::array<Value *, register_count>>> resumed_;
  /// Huge programs: registers live in memory between blocks (lower.h, register_memory_limit).
  std::array<llvm::AllocaInst *, register_count> register_memory_{};
  bool registers_in_memory_ = false;
  std::array<Value *, register_count> values_{};
  State state_;
};

} // namespace ujit
