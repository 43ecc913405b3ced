// The instruction sequences that map_gen_lookup() puts in place of bpf_map_lookup_elem(), read from
// kernel/bpf/arraymap.c and hashtab.c of 6.1, 6.12 and 6.18:
//
//   array                  since 4.10        array_of_maps        since 4.12
//   hash, lru_hash         since 4.10/4.14   hash_of_maps         since 4.12
//   percpu_array, percpu_hash                since 6.10
//
// No program can contain one of its own accord where it would do harm: the verifier lets nobody add to a
// map's address, so a sequence that begins with a map in r1 is the kernel's, and that r1 is a map is checked
// by the provenance analysis. A sequence which a jump enters in the middle is none.
#include "kernel-iface/linux/canonical_program.h"

namespace ujit {
namespace {

/// Compares instructions one by one. Once one differs nothing is passed any more.
class Matcher {
public:
  Matcher(std::span<const Insn> insns, uint32_t at) : insns_(insns), at_(at), start_(at) {}

  /// The instruction at the current place if it has these fields; then it is passed.
  const Insn *take(uint8_t opcode, unsigned dst, unsigned src, int offset, std::optional<int32_t> imm) {
    if (failed_ || at_ >= insns_.size())
      return fail();
    const Insn &i = insns_[at_];
    if (i.opcode != opcode || i.dst != dst || i.src != src || (offset != any_offset && i.offset != offset) ||
        (imm && i.imm != *imm))
      return fail();
    at_++;
    return &i;
  }
  const Insn *peek() const { return failed_ || at_ >= insns_.size() ? nullptr : &insns_[at_]; }
  bool ok() const { return !failed_; }
  uint32_t slots() const { return at_ - start_; }

  static constexpr int any_offset = 1 << 20;

private:
  const Insn *fail() {
    failed_ = true;
    return nullptr;
  }
  std::span<const Insn> insns_;
  uint32_t at_, start_;
  bool failed_ = false;
};

constexpr uint8_t add_imm = 0x07, add_reg = 0x0f, shift = 0x67, multiply = 0x27, and32 = 0x54, load8 = 0x71,
                  load32 = 0x61, load64 = 0x79, store8 = 0x72, jump = 0x05, jump_eq = 0x15, jump_ne = 0x55,
                  jump_ge = 0x35, mov_imm = 0xb7, mov_reg = 0xbf;
constexpr int per_cpu = -1;

} // namespace

std::optional<OpenLookup> match_array_lookup(std::span<const Insn> insns, uint32_t at,
                                             const KernelLayout &layout) {
  Matcher m(insns, at);
  OpenLookup found;
  m.take(add_imm, 1, 0, 0, int32_t(layout.array_value));
  m.take(load32, 0, 2, 0, 0);
  const Insn *bound = m.take(jump_ge, 0, 0, Matcher::any_offset, std::nullopt);
  if (!bound)
    return std::nullopt;
  found.max_entries = uint32_t(bound->imm);
  if (m.peek() && m.peek()->opcode == and32) {
    found.masked = true;
    m.take(and32, 0, 0, 0, std::nullopt);
  }
  if (const Insn *scale = m.peek(); scale && scale->opcode == multiply) {
    found.stride = uint32_t(scale->imm);
    m.take(multiply, 0, 0, 0, std::nullopt);
  } else {
    scale = m.take(shift, 0, 0, 0, std::nullopt);
    if (!scale || scale->imm < 0 || scale->imm > 31)
      return std::nullopt;
    found.stride = 1u << scale->imm;
  }
  m.take(add_reg, 0, 1, 0, 0);
  found.type = MapType::array;
  if (const Insn *next = m.peek(); next && next->opcode == load64) {
    m.take(load64, 0, 0, 0, 0);
    if (const Insn *then = m.peek(); then && then->opcode == mov_reg) {
      m.take(mov_reg, 0, 0, per_cpu, 0);
      found.type = MapType::percpu_array;
    } else {
      m.take(jump_eq, 0, 0, 1, 0);
      found.type = MapType::array_of_maps;
    }
  }
  m.take(jump, 0, 0, 1, 0);
  m.take(mov_imm, 0, 0, 0, 0);
  found.slots = m.slots();
  // Out of range goes to the last instruction.
  if (!m.ok() || bound->offset != int16_t(found.slots - 4))
    return std::nullopt;
  return found;
}

std::optional<OpenLookup> match_hash_lookup(std::span<const Insn> insns, uint32_t at,
                                            const KernelLayout &layout) {
  Matcher m(insns, at + 1);
  OpenLookup found;
  const Insn *missing = m.take(jump_eq, 0, 0, Matcher::any_offset, 0);
  if (!missing)
    return std::nullopt;
  found.type = MapType::hash;
  if (const Insn *next = m.peek(); next && next->opcode == load8) {
    m.take(load8, 1, 0, int(layout.htab.referenced), 0);
    m.take(jump_ne, 1, 0, 1, 0);
    m.take(store8, 0, 0, int(layout.htab.referenced), 1);
    found.type = MapType::lru_hash;
  }
  const Insn *value = m.take(add_imm, 0, 0, 0, std::nullopt);
  if (!value)
    return std::nullopt;
  found.value_offset = uint32_t(value->imm);
  // Where the jump for a missing element goes tells what else belongs to the sequence.
  if (found.type == MapType::hash && missing->offset > 1) {
    m.take(load64, 0, 0, 0, 0);
    found.type = MapType::hash_of_maps;
    if (missing->offset > 2) {
      m.take(mov_reg, 0, 0, per_cpu, 0);
      found.type = MapType::percpu_hash;
    }
  }
  if (!m.ok() || m.slots() != uint32_t(missing->offset) + 1)
    return std::nullopt;
  found.slots = m.slots() + 1;
  return found;
}

} // namespace ujit
