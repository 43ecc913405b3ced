#include "kernel-iface/linux/stub.h"

#include "kernel-iface/linux/kernel_reader.h"
#include "kernel-iface/linux/verifier_log.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstring>
#include <optional>

namespace ujit {
namespace {

using llvm::formatv;

/// Failed tail calls that one run goes through: the kernel's limit, and one more.
constexpr int32_t most_misses = 34;

/// Instructions one by one, with jumps in both directions.
class Assembler {
public:
  struct Label {
    std::optional<size_t> at{};
    std::vector<size_t> jumps{}; ///< written before the label was
  };

  void put(uint8_t opcode, uint8_t dst = 0, uint8_t src = 0, int16_t offset = 0, int32_t imm = 0) {
    insns_.push_back({.opcode = opcode, .dst = dst, .src = src, .offset = offset, .imm = imm});
  }
  void move(uint8_t dst, uint8_t src) { put(BPF_ALU64 | BPF_MOV | BPF_X, dst, src); }
  void set(uint8_t dst, int32_t value) { put(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value); }
  void alu(uint8_t op, uint8_t dst, int32_t value) { put(BPF_ALU64 | op | BPF_K, dst, 0, 0, value); }
  void load_fd(uint8_t dst, uint8_t kind, int fd) {
    put(BPF_LD | BPF_DW | BPF_IMM, dst, kind, 0, fd);
    put(0);
  }
  void call_helper(int32_t id) { put(BPF_JMP | BPF_CALL, 0, 0, 0, id); }
  void jump(uint8_t op, uint8_t dst, int32_t value, Label &to) {
    put(BPF_JMP | op | BPF_K, dst, 0, 0, value);
    if (to.at)
      set_distance(insns_.size() - 1, *to.at);
    else
      to.jumps.push_back(insns_.size() - 1);
  }
  void place(Label &label) {
    label.at = insns_.size();
    for (size_t jump : label.jumps)
      set_distance(jump, *label.at);
  }
  std::vector<Insn> finish() { return std::move(insns_); }

private:
  void set_distance(size_t jump, size_t to) {
    insns_[jump].offset = int16_t(int64_t(to) - int64_t(jump) - 1);
  }

  std::vector<Insn> insns_;
};

/// Words of the stub's own, on the stack behind the frame. Nothing is in a register that calls preserve: the
/// kernel's code would save and restore each of those for every packet, and few packets need more than the
/// call.
enum Word : uint32_t { context_word = 1, result_word, misses_word, array_word, words = array_word };

class Stub {
public:
  Stub(const StubSpec &spec, bool clear_frame) : spec_(spec), clear_frame_(clear_frame) {}

  std::vector<Insn> write() {
    store(context_word, 1);
    a_.load_fd(3, BPF_PSEUDO_MAP_VALUE, spec_.switch_map);
    a_.put(BPF_LDX | BPF_MEM | BPF_W, 3, 3);
    a_.jump(BPF_JNE, 3, 0, killed_);
    if (clear_frame_)
      for (uint32_t at = 8; at <= spec_.frame_bytes; at += 8)
        a_.put(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -int16_t(at), 0);
    a_.set(2, 0);
    call_entry();
    if (spec_.frame_bytes)
      leave();
    a_.place(out_);
    a_.put(BPF_JMP | BPF_EXIT);
    run_original();
    return a_.finish();
  }

private:
  int16_t at(Word word) const { return int16_t(-int32_t(spec_.frame_bytes + 8 * word)); }
  void load(uint8_t to, Word word, uint8_t size = BPF_DW) {
    a_.put(BPF_LDX | BPF_MEM | size, to, 10, at(word));
  }
  void store(Word word, uint8_t from) { a_.put(BPF_STX | BPF_MEM | BPF_DW, 10, from, at(word)); }

  /// r1: context, r2: where.
  void call_entry() {
    if (spec_.frame_bytes) {
      a_.move(3, 10);
      a_.alu(BPF_ADD, 3, -int32_t(spec_.frame_bytes));
      a_.set(4, int32_t(spec_.frame_bytes));
    }
    a_.put(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 1 /* fd_array[1] */, int32_t(spec_.kfunc_id));
  }

  /// bpf_tail_call(context, `prog_array`, r3)
  void tail_call(int prog_array) {
    load(1, context_word);
    a_.load_fd(2, BPF_PSEUDO_MAP_FD, prog_array);
    a_.call_helper(BPF_FUNC_tail_call);
  }

  void leave() {
    Assembler::Label again, missed, drop;
    a_.jump(BPF_JSGT, 0, -1, out_);
    a_.set(5, 0);
    store(misses_word, 5);
    a_.place(again); // r0: where to, r5: tail calls that failed, by which the verifier tells rounds apart
    store(result_word, 0);
    a_.alu(BPF_LSH, 0, 1); // bit 63 goes
    a_.alu(BPF_RSH, 0, 49);
    store(array_word, 0);
    if (spec_.left >= 0)
      count_leave();
    for (size_t i = 0; i < spec_.prog_arrays.size(); ++i) {
      Assembler::Label next;
      load(4, array_word);
      a_.jump(BPF_JNE, 4, int32_t(i), next);
      load(3, result_word, BPF_W); // the index
      tail_call(spec_.prog_arrays[i]);
      a_.jump(BPF_JA, 0, 0, missed);
      a_.place(next);
    }
    a_.place(missed);
    load(5, misses_word);
    a_.alu(BPF_ADD, 5, 1);
    a_.jump(BPF_JGE, 5, most_misses, drop);
    store(misses_word, 5);
    load(1, context_word);
    load(2, result_word);
    a_.alu(BPF_RSH, 2, 32);
    a_.alu(BPF_AND, 2, 0xffff);
    call_entry();
    load(5, misses_word);
    a_.jump(BPF_JSLE, 0, -1, again);
    a_.jump(BPF_JA, 0, 0, out_);
    a_.place(drop);
    a_.set(0, drop_verdict(spec_.original->type));
  }

  /// ++left[number of the prog array]
  void count_leave() {
    Assembler::Label no_such;
    a_.load_fd(1, BPF_PSEUDO_MAP_FD, spec_.left);
    a_.move(2, 10);
    a_.alu(BPF_ADD, 2, at(array_word));
    a_.call_helper(BPF_FUNC_map_lookup_elem);
    a_.jump(BPF_JEQ, 0, 0, no_such);
    a_.put(BPF_LDX | BPF_MEM | BPF_DW, 1, 0);
    a_.alu(BPF_ADD, 1, 1);
    a_.put(BPF_STX | BPF_MEM | BPF_DW, 0, 1);
    a_.place(no_such);
  }

  void run_original() {
    a_.place(killed_);
    a_.set(3, 0);
    tail_call(spec_.originals);
    // Flags of a program that hooks read come from what is in it, run or not. A tail call sets cb_access.
    if ((spec_.dst_needed || spec_.original->dst_needed) && spec_.original->type == ProgType::sched_cls) {
      load(1, context_word);
      a_.call_helper(BPF_FUNC_get_route_realm);
    }
    a_.set(0, drop_verdict(spec_.original->type));
    a_.put(BPF_JMP | BPF_EXIT);
  }

  static int32_t drop_verdict(ProgType type) { return type == ProgType::xdp ? 0 : 2; }

  const StubSpec &spec_;
  const bool clear_frame_;
  Assembler a_;
  Assembler::Label out_, killed_;
};

} // namespace

std::vector<Insn> stub_program(const StubSpec &spec, bool clear_frame) {
  return Stub(spec, clear_frame).write();
}

Expected<Fd> load_stub(const StubSpec &spec) {
  if (spec.frame_bytes % 8 || spec.frame_bytes + 8 * words > 512)
    return internal_error(formatv("a frame of {0} bytes is not one that a stub can have", spec.frame_bytes))
        .error();
  const int fds[] = {0, spec.module_btf};
  std::vector<char> log(1 << 20);
  auto load = [&](bool clear_frame, bool explain) {
    const std::vector<Insn> insns = stub_program(spec, clear_frame);
    LIBBPF_OPTS(bpf_prog_load_opts, options,
                .expected_attach_type = bpf_attach_type(spec.original->attach_type),
                .prog_flags = spec.original->frags ? uint32_t(BPF_F_XDP_HAS_FRAGS) : 0u, .fd_array = fds);
    if (explain) {
      options.log_level = 1;
      options.log_buf = log.data();
      options.log_size = log.size();
    }
    return Fd(bpf_prog_load(bpf_prog_type(spec.original->type), spec.name.c_str(), "GPL",
                            reinterpret_cast<const bpf_insn *>(insns.data()), insns.size(), &options));
  };
  // Before 6.3, memory that a kfunc may read must have been written; since then not for those who may read
  // kernel memory anyway.
  if (Fd fd = load(false, false))
    return fd;
  if (Fd fd = load(true, true))
    return fd;
  LinkError error = unsupported(
      formatv("the stub of {0} cannot be loaded: {1}", spec.original->name, std::strerror(errno)));
  for (std::string &line : read_verifier_log(log.data()).tail)
    error.note("verifier: " + line);
  return error.error();
}

Error check_stubs(std::span<const StubSpec> specs, std::span<const int> stubs) {
  auto reader = KernelReader::load();
  if (!reader)
    return reader.takeError();
  std::vector<uint32_t> ids;
  for (int fd : stubs) {
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0)
      return unsupported(formatv("the kernel tells nothing of a stub: {0}", std::strerror(errno))).error();
    ids.push_back(info.id);
  }
  auto facts = reader->programs(ids);
  if (!facts)
    return facts.takeError();
  for (size_t i = 0; i < ids.size(); ++i) {
    const CapturedProgram &original = *specs[i].original;
    auto stub = llvm::find_if(*facts, [&](const ProgramInKernel &f) { return f.record.id == ids[i]; });
    if (stub == facts->end())
      return unsupported(formatv("the kernel tells nothing of the stub of {0}", original.name)).error();
    const program_record &r = stub->record;
    const char *differs = nullptr;
    if (r.attach_type != original.attach_type)
      differs = "attach type";
    else if (bool(r.flags & program_frags) != original.frags)
      differs = "XDP frags";
    else if (!(r.flags & program_dst_needed) && (specs[i].dst_needed || original.dst_needed))
      differs = "dst_needed";
    else if (!(r.flags & program_cb_access) && original.cb_access)
      differs = "cb_access";
    else if (!(r.flags & program_kprobe_override) && original.kprobe_override)
      differs = "kprobe_override";
    if (differs)
      return unsupported(
                 formatv("the stub of {0} cannot stand in for it: {1} differs", original.name, differs))
          .error();
  }
  return Error::success();
}

} // namespace ujit
