// What one run of a program did, as plain values.
#pragma once

#include "translator/program.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ujit {

/// Where a packet would go, if the program's return value says redirect.
struct Redirect {
  enum Kind : uint8_t {
    none,
    interface, ///< bpf_redirect
    neighbour, ///< bpf_redirect_neigh
    peer,      ///< bpf_redirect_peer
    map,       ///< bpf_redirect_map
  } kind = none;
  uint32_t ifindex = 0;
  uint64_t flags = 0;
  MapId map_id{};                ///< kind `map`
  uint64_t key = 0;              ///< kind `map`
  uint32_t target = 0;           ///< kind `map`: first word of the value, e.g. the interface
  std::vector<uint8_t> next_hop; ///< kind `neighbour`: struct bpf_redir_neigh as given
  friend bool operator==(const Redirect &, const Redirect &) = default;
};

/// A message to user space.
struct Event {
  MapId map{};
  uint64_t cpu = 0;          ///< perf events: the slot
  std::vector<uint8_t> data; ///< perf events: the program's bytes, then the packet's if it asked for them
  friend bool operator==(const Event &, const Event &) = default;
};

/// A copy that bpf_clone_redirect sent off.
struct Clone {
  uint32_t ifindex = 0;
  uint64_t flags = 0;
  std::vector<uint8_t> packet;
  friend bool operator==(const Clone &, const Clone &) = default;
};

struct PacketResult {
  uint32_t value = 0;            ///< low half of r0: the verdict
  std::vector<uint8_t> packet;   ///< without XDP metadata
  std::vector<uint8_t> metadata; ///< XDP: the bytes between data_meta and data
  std::vector<uint8_t> context;  ///< UAPI struct, pointer fields zero
  Redirect redirect;
  std::vector<Event> events; ///< perf events in order, then what ring buffers gave, by map
  std::vector<Clone> clones;
  std::vector<std::string> printed; ///< bpf_trace_printk
  friend bool operator==(const PacketResult &, const PacketResult &) = default;
};

} // namespace ujit
