// Layouts and habits of the running kernel that verified code depends on.
#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/kernel_types.h"
#include "kernel-iface/linux/kernel_version.h"
#include "kernel-iface/linux/load.h"
#include "translator/make_insn.h"

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

Error read_skb_layout(const KernelTypes &types, const KernelContext &context, SkbLayout &out) {
  for (const KernelContextMember &m : context.members) {
    if (m.kind == KernelContextMember::packet)
      out.data = m.offset;
    if (m.kind == KernelContextMember::packet_end)
      out.data_end = m.offset;
  }
  struct {
    SkbLayout::Bit &to;
    const char *member;
    unsigned bit = 0;
    bool optional = false;
  } const bits[] = {{out.cloned, "cloned"},
                    {out.unreadable, "unreadable", 0, true}, // since 6.12
                    {out.summed, "ip_summed", 1}};           // of NONE, UNNECESSARY, COMPLETE, PARTIAL
  for (const auto &row : bits) {
    Expected<uint32_t> first = types.bit_offset_of("sk_buff", row.member);
    if (first) {
      row.to = {(*first + row.bit) / 8, uint8_t(1u << (*first + row.bit) % 8)};
      continue;
    }
    if (!row.optional)
      return first.takeError();
    llvm::consumeError(first.takeError());
  }
  return Error::success();
}

/// Attempts on an empty slot, then one on a filled slot: that one fails if the others counted.
Expected<bool> failed_tail_calls_count(bool constant_index) {
  constexpr auto insn = make_insn;
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

/// struct bucket and struct htab_elem, whose first member leads to the next element.
Error read_hash_layout(const KernelTypes &types, HashLayout &out) {
  uint32_t head = 0, in_head = 0, node = 0, lru = 0;
  struct {
    uint32_t &to;
    const char *type, *member;
  } const offsets[] = {{head, "bucket", "head"},         {in_head, "hlist_nulls_head", "first"},
                       {node, "htab_elem", "hash_node"}, {out.chain, "hlist_nulls_node", "next"},
                       {out.hash, "htab_elem", "hash"},  {out.key, "htab_elem", "key"},
                       {lru, "htab_elem", "lru_node"},   {out.referenced, "bpf_lru_node", "ref"}};
  for (const auto &row : offsets) {
    Expected<uint32_t> offset = types.offset_of(row.type, row.member);
    if (!offset)
      return offset.takeError();
    row.to = *offset;
  }
  Expected<uint32_t> bucket = types.size_of("bucket");
  if (!bucket)
    return bucket.takeError();
  // Where the chain does not begin with the bucket and the element, no trial will succeed.
  out.bucket = head || in_head || node ? 0 : *bucket;
  out.referenced += lru;
  return Error::success();
}

} // namespace

Expected<std::shared_ptr<KernelFacts>> read_kernel_facts() {
  auto out = std::make_shared<KernelFacts>();
  utsname name{};
  if (uname(&name) == 0)
    out->release = name.release;
  Expected<KernelTypes> types = KernelTypes::read();
  if (!types)
    return types.takeError();
  Expected<uint32_t> value = types->offset_of("bpf_array", "value");
  if (!value)
    return value.takeError();
  out->layout.array_value = *value;
  if (Error e = read_hash_layout(*types, out->layout.htab))
    return e;
  for (auto read : {read_xdp_buff, read_sk_buff}) {
    Expected<KernelContext> context = read(*types);
    if (!context)
      return context.takeError();
    out->layout.contexts.push_back(std::move(*context));
  }
  if (Error e = read_skb_layout(*types, *out->layout.context(ProgType::sched_cls), out->layout.skb))
    return e;

  // The count differs by kernel version and is backported at will, so it is tried out. Where test runs are
  // not allowed the version decides: kernels from 6.12 on count successes only.
  Expected<bool> direct = failed_tail_calls_count(true);
  Expected<bool> indirect = failed_tail_calls_count(false);
  if (direct && indirect)
    out->counts_failed_tail_calls = *direct || *indirect;
  else
    out->counts_failed_tail_calls = kernel_version(out->release) < std::pair(6u, 12u);
  if (!direct)
    llvm::consumeError(direct.takeError());
  if (!indirect)
    llvm::consumeError(indirect.takeError());
  return out;
}

} // namespace ujit
