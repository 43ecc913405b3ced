#include "lto/digest.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/SHA256.h"

#include <algorithm>
#include <array>

namespace ujit {
namespace {

using Digest = std::array<uint8_t, 32>;

/// Feeds values in a form that cannot be read in two ways: numbers little-endian at fixed width, strings with
/// their length in front.
class Hasher {
public:
  explicit Hasher(llvm::StringRef domain) { string(domain); }

  void u32(uint32_t v) {
    uint8_t bytes[4];
    llvm::support::endian::write32le(bytes, v);
    sha_.update(bytes);
  }
  void string(llvm::StringRef s) {
    u32(s.size());
    sha_.update(s);
  }
  void bytes(llvm::ArrayRef<uint8_t> b) {
    u32(b.size());
    sha_.update(b);
  }
  void digest(const Digest &d) { sha_.update(d); }
  Digest done() { return sha_.final(); }

private:
  llvm::SHA256 sha_;
};

void hash_shape(Hasher &h, const Map &map) {
  h.u32(uint32_t(map.type));
  h.u32(map.key_size);
  h.u32(map.value_size);
  h.u32(map.max_entries);
  h.u32(map.flags);
}

Digest map_digest(const Pipeline &pipeline, const Map &map) {
  Hasher h("ujit map 1");
  h.string(map.name);
  hash_shape(h, map);
  h.u32(map.frozen);
  std::vector<BoundConstant> bound = map.bound;
  std::ranges::sort(bound, {}, [](const BoundConstant &b) { return std::tie(b.offset, b.size, b.name); });
  h.u32(bound.size());
  for (const BoundConstant &b : bound) {
    h.string(b.name);
    h.u32(b.offset);
    h.u32(b.size);
  }
  if (map.special_fields)
    h.string("special fields");
  if (map.frozen) {
    std::vector<uint8_t> contents = map.contents;
    for (const BoundConstant &b : bound)
      if (b.offset < contents.size())
        std::fill_n(contents.begin() + b.offset, std::min<size_t>(b.size, contents.size() - b.offset), 0);
    h.bytes(contents);
  }
  // One level: the kernel has no deeper ones, and a description that names itself must end.
  bool has_inner = map.inner && index(*map.inner) < pipeline.maps.size();
  h.u32(has_inner);
  if (has_inner)
    hash_shape(h, pipeline[*map.inner]);
  return h.done();
}

/// Digests of maps, made when first asked for.
class MapDigests {
public:
  explicit MapDigests(const Pipeline &pipeline) : pipeline_(pipeline), digests_(pipeline.maps.size()) {}

  const Digest &operator[](uint32_t map) {
    if (!digests_[map])
      digests_[map] = map_digest(pipeline_, pipeline_.maps[map]);
    return *digests_[map];
  }

private:
  const Pipeline &pipeline_;
  std::vector<std::optional<Digest>> digests_;
};

bool names_map(const Insn &insn) {
  const InsnRow *row = find_row(insn);
  return row && (row->op == Op::ld_map || row->op == Op::ld_map_value);
}

Digest hash_program(const Pipeline &pipeline, const Program &program, MapDigests &maps) {
  Hasher h("ujit program 1");
  h.u32(uint32_t(program.type));
  h.u32(program.subprograms.size());
  for (const Subprogram &s : program.subprograms)
    h.u32(s.start);
  h.u32(program.insns.size());
  for (size_t at = 0; at < program.insns.size(); ++at) {
    const Insn &insn = program.insns[at];
    h.u32(insn.opcode | insn.dst << 8 | insn.src << 12 | uint32_t(uint16_t(insn.offset)) << 16);
    bool map = names_map(insn) && uint32_t(insn.imm) < pipeline.maps.size();
    if (map)
      h.digest(maps[insn.imm]);
    else
      h.u32(insn.imm);
    // The second half of a wide load is data: its opcode 0 must not be looked up.
    if (is_wide(insn) && at + 1 < program.insns.size())
      h.u32(program.insns[++at].imm);
  }
  for (const KernelCall &c : program.kernel_calls) { // none in object form
    h.u32(c.insn);
    h.string(c.symbol);
    h.u32(c.offset);
  }
  return h.done();
}

std::string hex(const Digest &d) { return llvm::toHex(d, /*LowerCase=*/true); }

/// Indices 0 .. n-1 in the order of the names.
template <class T>
std::vector<uint32_t> by_name(const std::vector<T> &items) {
  std::vector<uint32_t> order(items.size());
  for (uint32_t i = 0; i < order.size(); ++i)
    order[i] = i;
  std::ranges::stable_sort(order, {}, [&](uint32_t i) -> const std::string & { return items[i].name; });
  return order;
}

} // namespace

std::string program_digest(const Pipeline &pipeline, ProgId id) {
  MapDigests maps(pipeline);
  return hex(hash_program(pipeline, pipeline[id], maps));
}

std::vector<DigestLink> digest_chain(const Pipeline &object_form, const Pipeline &verified,
                                     std::span<const std::optional<ProgId>> verified_of) {
  MapDigests objects(object_form), kernels(verified);
  std::vector<DigestLink> chain;
  for (uint32_t i = 0; i < object_form.programs.size() && i < verified_of.size(); i++)
    if (verified_of[i])
      chain.push_back({object_form.programs[i].name,
                       hex(hash_program(object_form, object_form.programs[i], objects)),
                       hex(hash_program(verified, verified[*verified_of[i]], kernels))});
  return chain;
}

std::string pipeline_digest(const Pipeline &pipeline) {
  MapDigests maps(pipeline);
  Hasher h("ujit pipeline 1");
  h.u32(pipeline.programs.size());
  for (uint32_t i : by_name(pipeline.programs)) {
    const Program &program = pipeline.programs[i];
    h.string(program.name);
    h.digest(hash_program(pipeline, program, maps));
    h.u32(std::ranges::find(pipeline.entries, ProgId(i)) != pipeline.entries.end());
  }
  h.u32(pipeline.maps.size());
  for (uint32_t i : by_name(pipeline.maps)) {
    const Map &map = pipeline.maps[i];
    h.digest(maps[i]);
    h.u32(map.pinned);
    h.u32(map.is_template);
    h.u32(map.inner_slots.size());
    for (auto [slot, inner] : map.inner_slots) {
      h.u32(slot);
      h.digest(maps[index(inner)]);
    }
    h.u32(map.prog_slots.size());
    for (auto [slot, program] : map.prog_slots) {
      h.u32(slot);
      h.string(pipeline[program].name);
    }
  }
  return hex(h.done());
}

} // namespace ujit
