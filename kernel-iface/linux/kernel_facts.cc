// Layouts and habits of the running kernel that verified code depends on.
#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/kernel_types.h"
#include "kernel-iface/linux/load.h"

#include "llvm/ADT/StringRef.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>

namespace ujit {

namespace {

Error add_pointers(KernelContext &context, const KernelTypes &types, const std::string &name) {
  Expected<uint32_t> size = types.size_of(name);
  if (!size)
    return size.takeError();
  Expected<std::vector<uint32_t>> pointers = types.pointers_in(name);
  if (!pointers)
    return pointers.takeError();
  context.size = *size;
  for (uint32_t offset : *pointers)
    context.members.push_back({KernelContextMember::pointer, offset, 8});
  return Error::success();
}

Error set_kind(KernelContext &context, Expected<uint32_t> offset, KernelContextMember::Kind kind) {
  if (!offset)
    return offset.takeError();
  for (KernelContextMember &member : context.members)
    if (member.offset == *offset) {
      member.kind = kind;
      return Error::success();
    }
  context.members.push_back({kind, *offset, 8});
  return Error::success();
}

void sort_members(KernelContext &context) {
  std::sort(context.members.begin(), context.members.end(),
            [](const KernelContextMember &a, const KernelContextMember &b) { return a.offset < b.offset; });
}

Expected<KernelContext> read_xdp_buff(const KernelTypes &types) {
  KernelContext out;
  out.type = ProgType::xdp;
  if (Error e = add_pointers(out, types, "xdp_buff"))
    return e;
  if (Error e = set_kind(out, types.offset_of("xdp_buff", "data"), KernelContextMember::packet))
    return e;
  if (Error e = set_kind(out, types.offset_of("xdp_buff", "data_end"), KernelContextMember::packet_end))
    return e;
  if (Error e = set_kind(out, types.offset_of("xdp_buff", "data_meta"), KernelContextMember::packet_meta))
    return e;
  sort_members(out);
  return out;
}

// A sk_buff's end and metadata of the packet lie in its control block, which network programs overlay with
// struct bpf_skb_data_end.
Expected<KernelContext> read_sk_buff(const KernelTypes &types) {
  KernelContext out;
  out.type = ProgType::sched_cls;
  if (Error e = add_pointers(out, types, "sk_buff"))
    return e;
  Expected<uint32_t> cb = types.offset_of("sk_buff", "cb");
  if (!cb)
    return cb.takeError();
  auto in_cb = [&](const char *type, const char *member) -> Expected<uint32_t> {
    Expected<uint32_t> offset = types.offset_of(type, member);
    if (!offset)
      return offset.takeError();
    return *cb + *offset;
  };
  if (Error e = set_kind(out, types.offset_of("sk_buff", "data"), KernelContextMember::packet))
    return e;
  if (Error e = set_kind(out, in_cb("bpf_skb_data_end", "data_end"), KernelContextMember::packet_end))
    return e;
  if (Error e = set_kind(out, in_cb("bpf_skb_data_end", "data_meta"), KernelContextMember::packet_meta))
    return e;
  Expected<uint32_t> words = in_cb("qdisc_skb_cb", "data");
  if (!words)
    return words.takeError();
  out.cb_offset = *words;
  sort_members(out);
  return out;
}

/// Attempts on an empty slot, then one on a filled slot: that one fails if the others counted.
Expected<bool> failed_tail_calls_count(bool constant_index) {
  auto insn = [](uint8_t opcode, uint8_t dst, uint8_t src, int16_t offset, int32_t imm) {
    Insn out;
    out.opcode = opcode;
    out.dst = dst & 15;
    out.src = src & 15;
    out.offset = offset;
    out.imm = imm;
    return out;
  };
  Pipeline p;
  Map slots;
  slots.name = "ujit_probe";
  slots.type = MapType::prog_array;
  slots.key_size = slots.value_size = 4;
  slots.max_entries = 2;
  slots.prog_slots = {{1, ProgId{1}}};
  p.maps = {slots};
  Program caller, leaf;
  caller.name = "ujit_caller";
  leaf.name = "ujit_leaf";
  caller.type = leaf.type = ProgType::xdp;
  leaf.insns = {insn(0xb7, 0, 0, 0, 2), insn(0x95, 0, 0, 0, 0)};
  caller.insns = {insn(0xbf, 6, 1, 0, 0),   // r6 = ctx
                  insn(0x61, 7, 6, 16, 0)}; // r7 = rx_queue_index: 0 in a test run, unknown to the verifier
  for (int i = 0; i <= 40; i++) {
    const int32_t slot = i == 40;
    caller.insns.push_back(insn(0xbf, 1, 6, 0, 0));
    caller.insns.push_back(insn(0x18, 2, BPF_PSEUDO_MAP_FD, 0, 0));
    caller.insns.push_back(insn(0, 0, 0, 0, 0));
    caller.insns.push_back(constant_index ? insn(0xb7, 3, 0, 0, slot) : insn(0xbf, 3, 7, 0, 0));
    if (!constant_index)
      caller.insns.push_back(insn(0x07, 3, 0, 0, slot));
    caller.insns.push_back(insn(0x85, 0, 0, 0, BPF_FUNC_tail_call));
  }
  caller.insns.push_back(insn(0xb7, 0, 0, 0, 1));
  caller.insns.push_back(insn(0x95, 0, 0, 0, 0));
  for (Program *program : {&caller, &leaf})
    program->subprograms = {{program->name, 0, uint32_t(program->insns.size()), 0}};
  p.programs = {caller, leaf};
  Expected<LoadedPipeline> loaded = load_into_kernel(p);
  if (!loaded)
    return loaded.takeError();
  const std::vector<uint8_t> packet(64);
  Expected<TestRunResult> result = loaded->run(ProgId{0}, packet);
  if (!result)
    return result.takeError();
  return result->retval == 1;
}

bool before_6_12(llvm::StringRef release) {
  unsigned major = 0, minor = 0;
  if (release.consumeInteger(10, major) || !release.consume_front(".") || release.consumeInteger(10, minor))
    return true;
  return major < 6 || (major == 6 && minor < 12);
}

} // namespace

Expected<std::shared_ptr<const KernelFacts>> read_kernel_facts() {
  auto out = std::make_shared<KernelFacts>();
  utsname name{};
  if (uname(&name) == 0)
    out->release = name.release;
  Expected<KernelTypes> types = KernelTypes::read();
  if (!types)
    return types.takeError();
  struct {
    uint32_t &to;
    const char *type, *member;
  } const offsets[] = {{out->layout.array_value, "bpf_array", "value"},
                       {out->layout.htab_key, "htab_elem", "key"}};
  for (const auto &row : offsets) {
    Expected<uint32_t> offset = types->offset_of(row.type, row.member);
    if (!offset)
      return offset.takeError();
    row.to = *offset;
  }
  Expected<uint32_t> node = types->offset_of("htab_elem", "lru_node");
  if (!node)
    return node.takeError();
  Expected<uint32_t> ref = types->offset_of("bpf_lru_node", "ref");
  if (!ref)
    return ref.takeError();
  out->layout.htab_lru_ref = *node + *ref;
  for (auto read : {read_xdp_buff, read_sk_buff}) {
    Expected<KernelContext> context = read(*types);
    if (!context)
      return context.takeError();
    out->layout.contexts.push_back(std::move(*context));
  }

  // The count differs by kernel version and is backported at will, so it is tried out. Where test runs are
  // not allowed the version decides: kernels from 6.12 on count successes only.
  Expected<bool> direct = failed_tail_calls_count(true);
  Expected<bool> indirect = failed_tail_calls_count(false);
  if (direct && indirect)
    out->counts_failed_tail_calls = *direct || *indirect;
  else
    out->counts_failed_tail_calls = before_6_12(out->release);
  if (!direct)
    llvm::consumeError(direct.takeError());
  if (!indirect)
    llvm::consumeError(indirect.takeError());
  return out;
}

} // namespace ujit
