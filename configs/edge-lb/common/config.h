// Options of the datapath. They are constants of .rodata: a loader sets them before it freezes the map, and
// both the verifier and ujit-lto then drop what is switched off.
#pragma once

#include "edge_lb.h"

const volatile __u8 enable_ipv6 = 1;
const volatile __u8 enable_nat = 1; /* off: every service is DSR */
const volatile __u8 enable_fragments = 1;
const volatile __u8 enable_source_filter = 1;
const volatile __u8 enable_echo_reply = 1;
const volatile __u8 enable_icmp_errors = 1;
const volatile __u8 enable_fib = 1;        /* off: next_hops says where packets go */
const volatile __u8 enable_custom = 1;     /* try jmp_table[SLOT_CUSTOM] before connection tracking */
const volatile __u8 enable_timestamps = 1; /* an ager needs ct_entry.last_seen; LRU eviction does not */
const volatile __u8 enable_trace = 0;      /* count each program's runs in program_hits */
const volatile __u8 policy_default_allow = 0;
const volatile __u8 encap_mode = ENCAP_IPIP;
const volatile __u32 max_recirculations = 2;
const volatile __u32 node_ip = EDGE_LB_DEFAULT_NODE_IP; /* host order; outer source and decapsulation address */
const volatile __u32 vxlan_vni = 1;
const volatile __u32 lb_seed = EDGE_LB_DEFAULT_SEED; /* equal on all nodes, so that they choose alike */
