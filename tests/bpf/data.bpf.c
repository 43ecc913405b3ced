// Data maps and config constants.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

volatile const __u32 enable_ipv6 = 1;
volatile const __u64 wide = 0x1122334455667788;
volatile const __u8 mac[6] = {1, 2, 3, 4, 5, 6};
__attribute__((section(".rodata.config"))) volatile const __u16 __config_endpoint_id = 7;
static volatile __u32 hidden = 40;
__u64 counter = 9;
__u32 zeros[4];

SEC("tc") int entry(struct __sk_buff *skb) {
  if (enable_ipv6)
    counter += wide;
  zeros[skb->queue_mapping & 3] += hidden++;
  return __config_endpoint_id + mac[skb->len & 3];
}

char _license[] SEC("license") = "GPL";
