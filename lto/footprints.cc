// The map's value is the number of programs entered, then a word for each: its number. What each program gets
// in front is
//
//     r2 = value ll
//     r3 = *(u32 *)(r2 + 0)          the place that is free
//     r4 = r3
//     r4 += 1
//     *(u32 *)(r2 + 0) = r4
//     r3 &= 63                       for the verifier: a chain has 34 programs
//     r3 <<= 2
//     r2 += r3
//     *(u32 *)(r2 + 4) = NUMBER
//
// Nothing jumps in front of a program's first instruction, and distances inside of it stay what they are.
#include "lto/footprints.h"

#include "translator/make_insn.h"

#include <cstring>

namespace ujit {

namespace {

constexpr uint32_t places = 64;
constexpr uint32_t value_bytes = 4 * (1 + places);

std::vector<Insn> footprint(MapId map, ProgId program) {
  constexpr unsigned map_value = 2;
  constexpr auto insn = make_insn;
  return {insn(0x18, 2, map_value, 0, int32_t(index(map))),
          insn(0, 0, 0, 0, 0),
          insn(0x61, 3, 2, 0, 0),
          insn(0xbf, 4, 3, 0, 0),
          insn(0x07, 4, 0, 0, 1),
          insn(0x63, 2, 4, 0, 0),
          insn(0x57, 3, 0, 0, places - 1),
          insn(0x67, 3, 0, 0, 2),
          insn(0x0f, 2, 3, 0, 0),
          insn(0x62, 2, 0, 4, int32_t(index(program)))};
}

uint32_t word(std::span<const uint8_t> value, size_t place) {
  uint32_t out = 0;
  std::memcpy(&out, value.data() + 4 * place, sizeof out);
  return out;
}

} // namespace

Pipeline with_footprints(Pipeline pipeline) {
  const MapId map{uint32_t(pipeline.maps.size())};
  Map &m = pipeline.maps.emplace_back();
  m.name = "ujit-footprints";
  m.type = MapType::array;
  m.key_size = 4;
  m.value_size = value_bytes;
  m.max_entries = 1;
  for (uint32_t i = 0; i < pipeline.programs.size(); ++i) {
    Program &p = pipeline.programs[i];
    const std::vector<Insn> front = footprint(map, ProgId(i));
    const auto more = uint32_t(front.size());
    p.insns.insert(p.insns.begin(), front.begin(), front.end());
    for (Subprogram &s : p.subprograms) {
      s.start += s.start ? more : 0;
      s.end += more;
    }
    for (LineInfo &line : p.lines)
      line.insn += line.insn ? more : 0;
    for (KernelCall &call : p.kernel_calls)
      call.insn += more;
  }
  return pipeline;
}

std::vector<uint8_t> no_footprints() { return std::vector<uint8_t>(value_bytes); }

std::vector<ProgId> read_footprints(std::span<const uint8_t> value) {
  std::vector<ProgId> out;
  if (value.size() != value_bytes)
    return out;
  for (uint32_t i = 0; i < std::min(word(value, 0), places); ++i)
    out.push_back(ProgId(word(value, 1 + i)));
  return out;
}

} // namespace ujit
