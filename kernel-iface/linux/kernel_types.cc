#include "kernel-iface/linux/kernel_types.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

namespace ujit {

namespace {

/// In bits.
std::optional<uint32_t> find_member(const btf *types, uint32_t id, const std::string &member, uint32_t base,
                                    unsigned depth = 0) {
  const btf_type *type = btf__type_by_id(types, id);
  while (type && (btf_is_mod(type) || btf_is_typedef(type)))
    type = btf__type_by_id(types, type->type);
  if (!type || !btf_is_composite(type) || depth > 8)
    return std::nullopt;
  const btf_member *members = btf_members(type);
  for (uint32_t i = 0; i < btf_vlen(type); ++i) {
    const char *name = btf__name_by_offset(types, members[i].name_off);
    const uint32_t offset = base + btf_member_bit_offset(type, i);
    if (name && member == name)
      return offset;
    if (!name || !*name)
      if (auto found = find_member(types, members[i].type, member, offset, depth + 1))
        return found;
  }
  return std::nullopt;
}

void add_pointers(const btf *types, uint32_t id, uint32_t base, std::vector<uint32_t> &out) {
  const btf_type *type = btf__type_by_id(types, id);
  while (type && (btf_is_mod(type) || btf_is_typedef(type)))
    type = btf__type_by_id(types, type->type);
  if (type && btf_is_ptr(type))
    out.push_back(base);
  if (!type || !btf_is_composite(type))
    return;
  for (uint32_t i = 0; i < btf_vlen(type); ++i)
    add_pointers(types, btf_members(type)[i].type, base + btf_member_bit_offset(type, i) / 8, out);
}

} // namespace

void KernelTypes::Free::operator()(btf *b) const { btf__free(b); }

Expected<KernelTypes> KernelTypes::read() {
  btf *types = btf__load_vmlinux_btf();
  if (!types || libbpf_get_error(types))
    return unsupported("the kernel tells no BTF of itself")
        .with_hint("CONFIG_DEBUG_INFO_BTF; /sys/kernel/btf/vmlinux")
        .error();
  return KernelTypes(types);
}

Expected<uint32_t> KernelTypes::offset_of(const std::string &type, const std::string &member) const {
  Expected<uint32_t> bits = bit_offset_of(type, member);
  if (!bits)
    return bits.takeError();
  return *bits / 8;
}

Expected<uint32_t> KernelTypes::bit_offset_of(const std::string &type, const std::string &member) const {
  const int id = btf__find_by_name_kind(btf_.get(), type.c_str(), BTF_KIND_STRUCT);
  if (id > 0)
    if (auto offset = find_member(btf_.get(), uint32_t(id), member, 0))
      return *offset;
  return unsupported(llvm::formatv("the kernel has no {0}.{1}", type, member)).error();
}

Expected<std::vector<uint32_t>> KernelTypes::pointers_in(const std::string &type) const {
  const int id = btf__find_by_name_kind(btf_.get(), type.c_str(), BTF_KIND_STRUCT);
  if (id <= 0)
    return unsupported("the kernel has no struct " + type).error();
  std::vector<uint32_t> out;
  add_pointers(btf_.get(), uint32_t(id), 0, out);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Expected<uint32_t> KernelTypes::size_of(const std::string &type) const {
  const int id = btf__find_by_name_kind(btf_.get(), type.c_str(), BTF_KIND_STRUCT);
  const btf_type *t = id > 0 ? btf__type_by_id(btf_.get(), uint32_t(id)) : nullptr;
  if (!t)
    return unsupported("the kernel has no struct " + type).error();
  return t->size;
}

} // namespace ujit
