// What the datapath, its control plane and its traffic generator agree on: map keys and values, program
// slots, drop reasons. Plain C, included by eBPF programs and by C++. Addresses and ports are in network
// byte order, everything else in host order; padding is explicit, because map keys are compared by bytes.
#pragma once

#include <linux/types.h>

#define EDGE_LB_MAX_SERVICES 64
#define EDGE_LB_MAX_BACKENDS 256
#define EDGE_LB_MAX_ENDPOINTS 64
#define EDGE_LB_MAX_CONNECTIONS 65536
#define EDGE_LB_MAGLEV_SIZE 509 /* prime, as the permutation needs; one table of this size a service */
#define EDGE_LB_DEFAULT_SEED 0x5eed1bad
#define EDGE_LB_DEFAULT_NODE_IP 0x0a000001 /* 10.0.0.1, host order */
#define EDGE_LB_VXLAN_PORT 4789
#define EDGE_LB_META_MAGIC 0xed6e

/* Slots of jmp_table. SLOT_CUSTOM is for a program of the user's own; it may stay empty. */
enum edge_lb_slot {
	SLOT_ENTRY = 0, /* never called; counts the entry in program_hits */
	SLOT_CLASSIFY,
	SLOT_PARSE_V4,
	SLOT_PARSE_V6,
	SLOT_FRAGMENT,
	SLOT_SOURCE,
	SLOT_L4,
	SLOT_CUSTOM,
	SLOT_CONNTRACK,
	SLOT_SERVICE,
	SLOT_BACKEND,
	SLOT_POLICY,
	SLOT_CT_CREATE,
	SLOT_NAT_V4,
	SLOT_NAT_V6,
	SLOT_REV_NAT_V4,
	SLOT_REV_NAT_V6,
	SLOT_ENCAP_IPIP,
	SLOT_ENCAP_VXLAN,
	SLOT_DECAP,
	SLOT_ECHO_V4,
	SLOT_ECHO_V6,
	SLOT_ICMP_ERROR,
	SLOT_FORWARD,
	SLOT_PASS,
	SLOT_DROP,
	SLOT_METRICS,
	SLOT_COUNT,
	/* Policy programs live in policy_calls; these are their places in program_hits. */
	HITS_POLICY_ALLOW_ALL = SLOT_COUNT,
	HITS_POLICY_WEB,
	HITS_POLICY_IDENTITY,
	HITS_POLICY_QUARANTINE,
	HITS_COUNT,
};

/* Slots of jmp_tc, given to the programs by declaration tags: tags are text, so these are macros. Slot 0 is not
 * called; it counts the entry in program_hits. The programs of policy_tc follow there. */
#define TC_SLOT_ENTRY 0
#define TC_SLOT_PARSE_V4 1
#define TC_SLOT_PARSE_V6 2
#define TC_SLOT_CONNTRACK 3
#define TC_SLOT_SERVICE 4
#define TC_SLOT_BACKEND 5
#define TC_SLOT_POLICY 6
#define TC_SLOT_CT_CREATE 7
#define TC_SLOT_NAT 8
#define TC_SLOT_REV_NAT 9
#define TC_SLOT_FORWARD 10
#define TC_SLOT_METRICS 11
#define TC_SLOT_DROP 12
#define TC_SLOT_COUNT 13

enum edge_lb_encap { ENCAP_IPIP = 0, ENCAP_VXLAN = 1 };

/* Why a packet was dropped, or handed to the stack. */
enum edge_lb_reason {
	REASON_NONE = 0,
	REASON_TOO_SHORT,
	REASON_BAD_HEADER,
	REASON_NOT_IP,
	REASON_IPV6_DISABLED,
	REASON_NOT_OURS,
	REASON_UNKNOWN_PROTOCOL,
	REASON_FRAGMENT_UNKNOWN,
	REASON_FRAGMENTS_DISABLED,
	REASON_SOURCE_BLOCKED,
	REASON_NO_BACKEND,
	REASON_POLICY_DENIED,
	REASON_POLICY_DEFAULT,
	REASON_CT_FULL,
	REASON_TTL_EXPIRED,
	REASON_PORT_UNREACHABLE,
	REASON_ADJUST_FAILED,
	REASON_RECIRCULATION,
	REASON_NO_ROUTE,
	REASON_MTU,
	REASON_MISSED_TAIL_CALL,
	REASON_COUNT,
};

enum edge_lb_family { FAMILY_NONE = 0, FAMILY_V4 = 4, FAMILY_V6 = 6 };

/* An IPv4 address fills the first word, the others are zero. */
union ip_addr {
	__be32 v4;
	__be32 v6[4];
};

struct flow_tuple {
	union ip_addr src;
	union ip_addr dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 family;
	__u16 pad;
};

/* port 0 and proto 0: the address is a virtual one, whatever the port. */
struct service_key {
	union ip_addr vip;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

#define SERVICE_DSR 1 /* encapsulate towards the backend, which answers the client itself */

struct service {
	__u32 id; /* 1 .. EDGE_LB_MAX_SERVICES - 1 */
	__u32 flags;
};

struct backend {
	union ip_addr addr;
	__be32 tunnel; /* the IPv4 address of the backend's host: outer destination when encapsulating */
	__be16 port;
	__u8 family; /* FAMILY_NONE: the array element is not in use */
	__u8 pad;
};

#define CT_REPLY 1   /* packets of this tuple come from the backend */
#define CT_DSR 2     /* encapsulated, not translated */
#define CT_CLOSING 4 /* FIN or RST was seen: a new SYN makes a new connection */

struct ct_entry {
	union ip_addr nat_addr;
	__be16 nat_port;
	__u16 service;
	__u32 backend;
	__u32 flags;
	__u32 pad;
	__u64 last_seen; /* ns since boot; 0 without enable_timestamps */
};

/* Slots of policy_tc. */
#define POLICY_ALLOW_ALL 0
#define POLICY_WEB 1
#define POLICY_IDENTITY 2
#define POLICY_QUARANTINE 3
#define POLICY_COUNT 4

/* Keyed by address. `id` indexes policy_calls (one slot an endpoint), `policy` indexes policy_tc (POLICY_*). */
struct endpoint {
	__u32 id;
	__u32 policy;
};

struct source_v4_key {
	__u32 prefix_len;
	__be32 addr;
};

struct source_v6_key {
	__u32 prefix_len;
	__be32 addr[4];
};

#define IDENTITY_WORLD 0
#define IDENTITY_OFFICE 100
#define IDENTITY_PARTNER 200

struct source_class {
	__u32 identity;
	__u32 blocked;
};

/* port 0: any port. */
struct policy_key {
	__u32 endpoint;
	__u32 identity;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct fragment_key {
	union ip_addr src;
	union ip_addr dst;
	__be32 id;
	__u8 proto;
	__u8 family;
	__u16 pad;
};

struct fragment_ports {
	__be16 sport;
	__be16 dport;
};

/* Used instead of the FIB when enable_fib is off. Element 0 is the way to the clients, others are by backend. */
struct next_hop {
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
};

struct metric_key {
	__u8 verdict; /* enum xdp_action, or TC_ACT_* */
	__u8 reason;  /* enum edge_lb_reason */
	__u8 family;
	__u8 pad;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct drop_event {
	__u64 time; /* ns since boot; 0 without enable_timestamps */
	__u32 length;
	__u32 ifindex;
	struct flow_tuple tuple;
	__u32 service;
	__u32 identity;
	__u8 reason;
	__u8 recirculations;
	__u16 pad;
	__u32 pad2;
};
