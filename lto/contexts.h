// What a test run gives a program beside the packet, as a user writes it down: the fields of the context that
// come from outside. A datapath's later hooks expect what earlier ones left there.
//
//     { "contexts": [ { "entry": "from_host", "mark": 3840, "cb": [1, 2] },
//                     { "ifindex": 7 } ] }
//
// sched_cls and other packet programs take mark, priority, ifindex, ingress_ifindex, cb, wire_len, gso_segs,
// gso_size; XDP takes ingress_ifindex and rx_queue_index. An ifindex names an interface of the manifest's
// `fib`; 1 is the loopback interface.
#pragma once

#include "translator/error.h"
#include "translator/program.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct RunContext {
  std::string entry; ///< the program that it is for; empty: every entry
  std::string text;  ///< the fields as written, for messages
  std::vector<std::pair<std::string, std::vector<uint32_t>>> fields;
};

/// Errors (input): not of this form, numbers of more than 32 bits, more than five words of cb.
Expected<std::vector<RunContext>> parse_contexts(std::string_view json, const std::string &file);

/// The UAPI struct that a test run of this type of program takes. Errors (input): a field that it does not
/// have.
Expected<std::vector<uint8_t>> context_bytes(const RunContext &context, ProgType type);

} // namespace ujit
