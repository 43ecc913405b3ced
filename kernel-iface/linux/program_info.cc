#include "kernel-iface/linux/program_info.h"

#include "kernel-iface/linux/maps.h"

#include "llvm/ADT/StringRef.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ujit {

using llvm::StringRef;

void ProgramTypes::Free::operator()(btf *b) const { btf__free(b); }

const btf *ProgramTypes::get(uint32_t btf_id) {
  auto [it, added] = by_id_.try_emplace(btf_id);
  if (added && btf_id != 0) {
    btf *types = btf__load_from_kernel_by_id(btf_id);
    if (!libbpf_get_error(types))
      it->second.reset(types);
  }
  return it->second.get();
}

namespace {

std::string kernel_name(const char (&name)[BPF_OBJ_NAME_LEN]) {
  return std::string(name, strnlen(name, sizeof name));
}

std::string text_at(const btf *types, uint32_t offset) {
  const char *text = btf__str_by_offset(types, offset);
  return text ? text : "";
}

std::string function_name(const btf *types, uint32_t type_id) {
  const btf_type *type = btf__type_by_id(types, type_id);
  return type && btf_is_func(type) ? text_at(types, type->name_off) : "";
}

} // namespace

Expected<CapturedProgram> read_program_info(Fd fd, ProgramTypes &types) {
  // The first call tells the sizes, the second one fills the arrays.
  bpf_prog_info sizes{};
  uint32_t length = sizeof sizes;
  if (bpf_obj_get_info_by_fd(fd.get(), &sizes, &length) != 0)
    return bpf_error(errno, "reading a loaded program").error();

  CapturedProgram out;
  std::vector<bpf_func_info> functions(sizes.nr_func_info);
  std::vector<bpf_line_info> lines(sizes.nr_line_info);
  out.map_ids.resize(sizes.nr_map_ids);
  auto address_of = [](auto &vector) { return reinterpret_cast<uint64_t>(vector.data()); };
  bpf_prog_info info{};
  info.nr_map_ids = sizes.nr_map_ids;
  info.map_ids = address_of(out.map_ids);
  info.func_info_rec_size = sizeof(bpf_func_info);
  info.nr_func_info = sizes.nr_func_info;
  info.func_info = address_of(functions);
  info.line_info_rec_size = sizeof(bpf_line_info);
  info.nr_line_info = sizes.nr_line_info;
  info.line_info = address_of(lines);
  length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0)
    return bpf_error(errno, "reading a loaded program").error();
  out.map_ids.resize(std::min<size_t>(out.map_ids.size(), info.nr_map_ids));

  out.fd = std::move(fd);
  out.id = info.id;
  out.name = kernel_name(info.name);
  out.type = static_cast<ProgType>(info.type);
  std::copy_n(info.tag, out.tag.size(), out.tag.begin());
  out.load_time_ns = info.load_time;
  out.gpl_compatible = info.gpl_compatible;
  const btf *names = types.get(info.btf_id);
  if (!names)
    return out;
  for (const bpf_func_info &function : functions)
    out.functions.push_back({function.insn_off, 0, 0, function_name(names, function.type_id)});
  if (!out.functions.empty() && !out.functions.front().name.empty())
    out.name = out.functions.front().name;
  for (const bpf_line_info &line : lines)
    out.lines.push_back({line.insn_off, text_at(names, line.file_name_off), line.line_col >> 10,
                         text_at(names, line.line_off)});
  return out;
}

Expected<CapturedMap> read_map_info(Fd fd) {
  bpf_map_info info{};
  uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0)
    return bpf_error(errno, "reading a map's description").error();
  CapturedMap out;
  out.fd = std::move(fd);
  out.id = info.id;
  out.name = kernel_name(info.name);
  out.type = static_cast<MapType>(info.type);
  out.key_size = info.key_size;
  out.value_size = info.value_size;
  out.max_entries = info.max_entries;
  out.flags = info.map_flags;
  out.extra = info.map_extra;
  return out;
}

} // namespace ujit
