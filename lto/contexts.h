// What a test run gives a program beside the packet, as a user writes it down: the fields of the context that
// come from outside. A datapath's later hooks expect what earlier ones left there.
//
//     { "contexts": [ { "entry": "from_host", "mark": 3840, "cb": [1, 2] },
//                     { "ifindex": 7, "tunnel": { "id": 2000, "remote": "10.0.0.2", "local": "10.0.0.1" } } ]
//                     }
//
// sched_cls and other packet programs take mark, priority, ifindex, ingress_ifindex, cb, wire_len, gso_segs,
// gso_size; XDP takes ingress_ifindex and rx_queue_index. An ifindex names an interface of the manifest's
// `fib`; 1 is the loopback interface. `tunnel` is what bpf_skb_get_tunnel_key answers: tc programs only.
#pragma once

#include "translator/error.h"
#include "translator/program.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct TunnelKey {
  uint32_t id = 0;
  std::vector<uint8_t> remote, local; ///< 4 or 16 bytes, both the same
  bool ipv6() const { return remote.size() == 16; }
};

struct RunContext {
  std::string entry; ///< the program that it is for; empty: every entry
  std::string text;  ///< the fields as written, for messages
  std::vector<std::pair<std::string, std::vector<uint32_t>>> fields;
  std::optional<TunnelKey> tunnel;
};

/// Errors (input): not of this form, numbers of more than 32 bits, addresses of two families.
Expected<std::vector<RunContext>> parse_contexts(std::string_view json, const std::string &file);

/// The UAPI struct that a test run of this type of program takes. Errors (input): a field that it does not
/// have, a tunnel where it is not for tc.
Expected<std::vector<uint8_t>> context_bytes(const RunContext &context, ProgType type);

} // namespace ujit
