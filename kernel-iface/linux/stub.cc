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
  void move32(uint8_t dst, uint8_t src) { put(BPF_ALU | BPF_MOV | BPF_X, dst, src); }
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

/// bpf_tail_call(r6, `prog_array`, r3)
void tail_call(Assembler &a, int prog_array) {
  a.move(1, 6);
  a.load_fd(2, BPF_PSEUDO_MAP_FD, prog_array);
  a.call_helper(BPF_FUNC_tail_call);
}

/// ++left[r9], in the word of the stack behind the frame.
void count_leave(Assembler &a, const StubSpec &spec) {
  const auto key = -int16_t(spec.frame_bytes + 8);
  Assembler::Label no_such;
  a.put(BPF_STX | BPF_MEM | BPF_W, 10, 9, key);
  a.load_fd(1, BPF_PSEUDO_MAP_FD, spec.left);
  a.move(2, 10);
  a.alu(BPF_ADD, 2, key);
  a.call_helper(BPF_FUNC_map_lookup_elem);
  a.jump(BPF_JEQ, 0, 0, no_such);
  a.put(BPF_LDX | BPF_MEM | BPF_DW, 1, 0);
  a.alu(BPF_ADD, 1, 1);
  a.put(BPF_STX | BPF_MEM | BPF_DW, 0, 1);
  a.place(no_such);
}

constexpr int32_t drop_verdict(ProgType type) { return type == ProgType::xdp ? 0 : 2; }

} // namespace

// r6: context, r7: what the kfunc returned, r8: tail calls that failed, r9: number of the prog array.
std::vector<Insn> stub_program(const StubSpec &spec, bool clear_frame) {
  Assembler a;
  Assembler::Label killed, again, out, missed;
  a.move(6, 1);
  a.load_fd(1, BPF_PSEUDO_MAP_VALUE, spec.switch_map);
  a.put(BPF_LDX | BPF_MEM | BPF_W, 1, 1);
  a.jump(BPF_JNE, 1, 0, killed);
  if (clear_frame)
    for (uint32_t at = 8; at <= spec.frame_bytes; at += 8)
      a.put(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -int16_t(at), 0);
  const bool leaves = spec.frame_bytes != 0;
  if (leaves)
    a.set(8, 0);
  a.move(1, 6);
  a.set(2, 0);
  a.place(again);
  if (leaves) {
    a.move(3, 10);
    a.alu(BPF_ADD, 3, -int32_t(spec.frame_bytes));
    a.set(4, spec.frame_bytes);
  }
  a.put(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 1 /* fd_array[1] */, spec.kfunc_id);
  if (leaves) {
    a.jump(BPF_JSGT, 0, -1, out);
    a.move(7, 0);
    a.move(9, 0);
    a.alu(BPF_LSH, 9, 1); // bit 63 goes
    a.alu(BPF_RSH, 9, 49);
    if (spec.left >= 0)
      count_leave(a, spec);
    for (size_t i = 0; i < spec.prog_arrays.size(); ++i) {
      Assembler::Label next;
      a.jump(BPF_JNE, 9, int32_t(i), next);
      a.move32(3, 7);
      tail_call(a, spec.prog_arrays[i]);
      a.jump(BPF_JA, 0, 0, missed);
      a.place(next);
    }
    a.place(missed);
    a.alu(BPF_ADD, 8, 1);
    a.move(1, 6);
    a.move(2, 7);
    a.alu(BPF_RSH, 2, 32);
    a.alu(BPF_AND, 2, 0xffff);
    a.jump(BPF_JLT, 8, most_misses, again);
    a.set(0, drop_verdict(spec.original->type));
  }
  a.place(out);
  a.put(BPF_JMP | BPF_EXIT);

  a.place(killed);
  a.set(3, 0);
  tail_call(a, spec.originals);
  // Flags of a program that hooks read come from what is in it, run or not. A tail call sets cb_access.
  if ((spec.dst_needed || spec.original->dst_needed) && spec.original->type == ProgType::sched_cls) {
    a.move(1, 6);
    a.call_helper(BPF_FUNC_get_route_realm);
  }
  a.set(0, drop_verdict(spec.original->type));
  a.put(BPF_JMP | BPF_EXIT);
  return a.finish();
}

Expected<Fd> load_stub(const StubSpec &spec) {
  if (spec.frame_bytes % 8 || spec.frame_bytes + (spec.left >= 0 ? 8 : 0) > 512)
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
