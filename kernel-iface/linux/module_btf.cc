#include "kernel-iface/linux/module_btf.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <memory>

namespace ujit {
namespace {

struct FreeBtf {
  void operator()(btf *b) const { btf__free(b); }
};
using OwnedBtf = std::unique_ptr<btf, FreeBtf>;

Error missing_type(const char *what) {
  return unsupported(llvm::formatv("the kernel's BTF has no {0}", what)).error();
}

/// The name by which the verifier knows the type of a program's context.
const char *context_struct(ProgType type) {
  switch (type) {
  case ProgType::xdp: return "xdp_md";
  case ProgType::sched_cls: return "__sk_buff";
  default: return nullptr;
  }
}

} // namespace

Expected<ModuleBtf> write_module_btf(const ModuleSpec &spec) {
  OwnedBtf kernel(btf__load_vmlinux_btf());
  if (!kernel)
    return unsupported("the kernel tells no BTF of itself")
        .with_hint("CONFIG_DEBUG_INFO_BTF; /sys/kernel/btf/vmlinux")
        .error();
  auto find = [&](const char *name, uint32_t kind) {
    return btf__find_by_name_kind(kernel.get(), name, kind);
  };
  const int u64 = find("long unsigned int", BTF_KIND_INT), u32 = find("unsigned int", BTF_KIND_INT);
  if (u64 < 0 || u32 < 0)
    return missing_type("unsigned int or unsigned long");

  OwnedBtf out(btf__new_empty_split(kernel.get()));
  if (!out)
    return internal_error("no split BTF can be made").error();
  // Parameters go to the prototype that was added last, so pointer types come first.
  const int frame = spec.frame_bytes ? btf__add_ptr(out.get(), 0) : 0;
  std::map<ProgType, int> contexts;
  ModuleBtf result;
  bool good = frame >= 0;
  for (const ModuleEntry &e : spec.entries) {
    const char *name = context_struct(e.type);
    if (!name)
      return unsupported(llvm::formatv("entries of type {0} cannot be installed", name_of(e.type)))
          .with_hint("XDP and sched_cls programs can")
          .error();
    auto [context, fresh] = contexts.try_emplace(e.type);
    if (fresh) {
      const int id = find(name, BTF_KIND_STRUCT);
      if (id < 0)
        return missing_type(name);
      context->second = btf__add_ptr(out.get(), id);
    }
    const int proto = btf__add_func_proto(out.get(), u64);
    good &= context->second > 0 && proto > 0;
    good &= btf__add_func_param(out.get(), "ctx", context->second) == 0;
    good &= btf__add_func_param(out.get(), "where", u32) == 0;
    if (spec.frame_bytes) {
      good &= btf__add_func_param(out.get(), "frame", frame) == 0;
      good &= btf__add_func_param(out.get(), "frame__sz", u32) == 0;
    }
    const int function = btf__add_func(out.get(), e.name.c_str(), BTF_FUNC_STATIC, proto);
    good &= function > 0;
    result.kfunc_ids.push_back(function);
  }
  uint32_t size = 0;
  const void *bytes = btf__raw_data(out.get(), &size);
  if (!good || !bytes)
    return internal_error("the module's BTF cannot be written").error();
  result.bytes.assign(static_cast<const uint8_t *>(bytes), static_cast<const uint8_t *>(bytes) + size);
  return result;
}

} // namespace ujit
