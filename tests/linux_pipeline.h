// Pipelines written by hand for the tests against the running kernel.
#pragma once

#include "translator/make_insn.h"
#include "translator/program.h"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace ujit::asm_ {

using Code = std::vector<Insn>;

constexpr auto insn = make_insn;

inline Code mov(unsigned dst, int32_t imm) { return {insn(0xb7, dst, 0, 0, imm)}; }
inline Code mov_reg(unsigned dst, unsigned src) { return {insn(0xbf, dst, src, 0, 0)}; }
inline Code add(unsigned dst, int32_t imm) { return {insn(0x07, dst, 0, 0, imm)}; }
inline Code add_reg(unsigned dst, unsigned src) { return {insn(0x0f, dst, src, 0, 0)}; }
inline Code load32(unsigned dst, unsigned src, int16_t offset) { return {insn(0x61, dst, src, offset, 0)}; }
inline Code load64(unsigned dst, unsigned src, int16_t offset) { return {insn(0x79, dst, src, offset, 0)}; }
inline Code store8(unsigned dst, int16_t offset, int32_t imm) { return {insn(0x72, dst, 0, offset, imm)}; }
inline Code store32(unsigned dst, int16_t offset, int32_t imm) { return {insn(0x62, dst, 0, offset, imm)}; }
inline Code store32_reg(unsigned dst, unsigned src, int16_t offset) {
  return {insn(0x63, dst, src, offset, 0)};
}
inline Code store64_reg(unsigned dst, unsigned src, int16_t offset) {
  return {insn(0x7b, dst, src, offset, 0)};
}
inline Code map_ref(unsigned dst, MapId map) {
  return {insn(0x18, dst, 1, 0, int32_t(index(map))), insn(0, 0, 0, 0, 0)};
}
inline Code value_ref(unsigned dst, MapId map, int32_t offset) {
  return {insn(0x18, dst, 2, 0, int32_t(index(map))), insn(0, 0, 0, 0, offset)};
}
inline Code func_ref(unsigned dst, int32_t distance) {
  return {insn(0x18, dst, 4, 0, distance), insn(0, 0, 0, 0, 0)};
}
inline Code helper(int32_t id) { return {insn(0x85, 0, 0, 0, id)}; }
inline Code call(int32_t distance) { return {insn(0x85, 0, 1, 0, distance)}; }
inline Code jump_if_not_zero(unsigned reg, int16_t distance) { return {insn(0x55, reg, 0, distance, 0)}; }
inline Code jump_if_greater(unsigned dst, unsigned src, int16_t distance) {
  return {insn(0x2d, dst, src, distance, 0)};
}
inline Code exit() { return {insn(0x95, 0, 0, 0, 0)}; }

inline Code code(std::initializer_list<Code> parts) {
  Code out;
  for (const Code &part : parts)
    out.insert(out.end(), part.begin(), part.end());
  return out;
}

/// `bpf_tail_call(r6, map, index)` with the context kept in r6.
inline Code tail_call(MapId map, int32_t index) {
  return code({mov_reg(1, 6), map_ref(2, map), mov(3, index), helper(12)});
}

inline Program program(std::string name, Code insns, ProgType type = ProgType::xdp) {
  Program out;
  out.name = std::move(name);
  out.object = "test.o";
  out.type = type;
  out.insns = std::move(insns);
  out.subprograms = {{out.name, 0, uint32_t(out.insns.size()), 0}};
  return out;
}

inline Map map(std::string name, MapType type, uint32_t key, uint32_t value, uint32_t entries,
               uint32_t flags = 0) {
  Map out;
  out.name = std::move(name);
  out.type = type;
  out.key_size = key;
  out.value_size = value;
  out.max_entries = entries;
  out.flags = flags;
  return out;
}

inline Map data_map(std::string name, std::vector<uint8_t> contents, bool frozen) {
  Map out = map(std::move(name), MapType::array, 4, uint32_t(contents.size()), 1);
  out.contents = std::move(contents);
  out.frozen = frozen;
  return out;
}

} // namespace ujit::asm_
