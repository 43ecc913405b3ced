// The core of the edge load balancer at tc, for drivers without XDP and for traffic of local containers: one
// entry and 16 programs behind it, which carry their state in skb->cb.
#include "tc/balance.h"
#include "tc/output.h"

char _license[] SEC("license") = "Dual BSD/GPL";
