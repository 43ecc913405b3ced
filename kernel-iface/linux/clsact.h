// Filters of the clsact qdisc that run eBPF programs, by netlink. libbpf's interface knows their programs,
// priorities and handles alone, and what is replaced through it loses the rest: its name, and its class,
// which egress packets get as their tc_index.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/error.h"

#include <cstdint>
#include <string>
#include <vector>

namespace ujit {

struct ClsactFilter {
  uint32_t program_id = 0, priority = 0, handle = 0;
  uint16_t protocol = 0; ///< of the packets that it is asked about, in network order
  uint32_t class_id = 0;
  bool direct_action = false; ///< the program's result is the verdict, not the packet's class
  bool actions = false;       ///< more happens to packets than the program says
  uint32_t offload = 0;       ///< TCA_CLS_FLAGS_*: run by the device, the kernel, or both
  std::string name;           ///< free text; libbpf's is the program's name and id
  friend bool operator==(const ClsactFilter &, const ClsactFilter &) = default;
};

enum class ClsactSide : uint8_t { ingress, egress };

/// In the order in which they are asked. Chains that packets only reach by an action are not looked at.
Expected<std::vector<ClsactFilter>> clsact_filters(uint32_t ifindex, ClsactSide side);

/// Makes a filter as described, with the program of `program_fd`; without `fresh`, of the one with this
/// priority, protocol and handle, which must be there. The kernel exchanges it in one step. Errors: it has
/// actions.
Error put_clsact_filter(uint32_t ifindex, ClsactSide side, const ClsactFilter &filter, int program_fd,
                        bool fresh);

} // namespace ujit
