// The edge load balancer at XDP: one entry, 29 programs behind it, chained by tail calls. README.md has the
// picture; each header knows one stage of it.
#include "xdp/state.h"

#include "xdp/parse.h"

#include "xdp/balance.h"
#include "xdp/icmp.h"
#include "xdp/nat.h"
#include "xdp/output.h"
#include "xdp/tunnel.h"

char _license[] SEC("license") = "Dual BSD/GPL";
