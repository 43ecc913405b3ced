// What each helper does to memory, read from the helpers' bodies in the kernel (net/core/filter.c,
// kernel/bpf/helpers.c, kernel/bpf/*map*.c, kernel/trace/bpf_trace.c). The optimiser believes these rows, so
// they err on the side of touching more:
//
//  - Everything that takes the packet's context reads it. What may reallocate, move or resize packet data
//    (the kernel's bpf_helper_changes_pkt_data) moves the packet, and writes context and packet.
//  - `pure` is only for calls that nobody misses: no state of the kernel, the packet or a map depends on how
//    often they ran. A map lookup is not pure, since it marks an LRU element as used. A clock is pure.
//  - Lookups read keys and the maps' own bookkeeping, never the values that programs have pointers to.
//    Updates and deletes may write any map's values: an LRU insertion recycles an element.
//  - Locks are barriers for map values.
//  - Callbacks are code of ours and touch everything.
#include "translator/helper.h"

#include <algorithm>

namespace ujit {

namespace {

using enum Arg;

constexpr uint16_t packet_rw = reads_packet | writes_packet;
constexpr uint16_t ctx_rw = reads_ctx | writes_ctx;
constexpr uint16_t maps_rw = reads_maps | writes_maps;
constexpr uint16_t skb_rw = packet_rw | ctx_rw;
constexpr uint16_t reads_all = reads_packet | reads_ctx | reads_maps;

using Args = std::array<Arg, 5>;

/// A helper that may write memory or kernel state: never dropped.
constexpr HelperEffects acts(uint32_t id, Args args, uint16_t touches = touch_nothing,
                             Ret ret = Ret::scalar) {
  return {.id = id, .args = args, .ret = ret, .touches = touches};
}

/// A helper whose result is all that it gives.
constexpr HelperEffects asks(uint32_t id, Args args = {}, uint16_t touches = touch_nothing) {
  return {.id = id, .args = args, .touches = touches, .pure = true};
}

/// A helper behind which packet pointers are invalid.
constexpr HelperEffects moves(uint32_t id, Args args, uint16_t touches = skb_rw) {
  return {.id = id, .args = args, .touches = touches, .moves_packet = true};
}

constexpr HelperEffects with_fixed(uint32_t size, HelperEffects e) {
  e.fixed_size = size;
  return e;
}

constexpr HelperEffects keeps_pointer(HelperEffects e) {
  e.captures = true;
  return e;
}

constexpr HelperEffects calls_back(HelperEffects e) {
  e.callback = true;
  e.moves_packet = true; // the callback may
  e.touches = touches_everything;
  return e;
}

constexpr HelperEffects rows[] = {
    acts(1, {map, key}, touch_nothing, Ret::map_value_or_null),                 // map_lookup_elem
    acts(2, {map, key, value, scalar}, maps_rw),                                // map_update_elem
    acts(3, {map, key}, maps_rw),                                               // map_delete_elem
    acts(4, {mem_write, size, any}, reads_all),                                 // probe_read
    asks(5),                                                                    // ktime_get_ns
    acts(6, {mem_read, size, any, any, any}, reads_all),                        // trace_printk
    acts(7, {}),                                                                // get_prandom_u32
    asks(8),                                                                    // get_smp_processor_id
    moves(9, {ctx, scalar, mem_read, size, scalar}),                            // skb_store_bytes
    moves(10, {ctx, scalar, scalar, scalar, scalar}),                           // l3_csum_replace
    moves(11, {ctx, scalar, scalar, scalar, scalar}),                           // l4_csum_replace
    moves(12, {ctx, map, scalar}, touches_everything),                          // tail_call
    moves(13, {ctx, scalar, scalar}, touches_everything),                       // clone_redirect
    asks(14),                                                                   // get_current_pid_tgid
    asks(15),                                                                   // get_current_uid_gid
    acts(16, {mem_write, size}),                                                // get_current_comm
    asks(17, {ctx}, reads_ctx),                                                 // get_cgroup_classid
    moves(18, {ctx, scalar, scalar}),                                           // skb_vlan_push
    moves(19, {ctx}),                                                           // skb_vlan_pop
    acts(20, {ctx, mem_write, size, scalar}, reads_ctx),                        // skb_get_tunnel_key
    acts(21, {ctx, mem_read, size, scalar}, ctx_rw),                            // skb_set_tunnel_key
    acts(23, {scalar, scalar}),                                                 // redirect
    asks(24, {ctx}, reads_ctx),                                                 // get_route_realm
    acts(25, {ctx, map, scalar, mem_read, size}, reads_all),                    // perf_event_output
    acts(26, {ctx, scalar, mem_write, size}, reads_packet | reads_ctx),         // skb_load_bytes
    acts(27, {ctx, map, scalar}, reads_ctx | maps_rw),                          // get_stackid
    asks(28, {mem_read, size, mem_read, size, scalar}),                         // csum_diff
    acts(29, {ctx, mem_write, size}, reads_ctx),                                // skb_get_tunnel_opt
    acts(30, {ctx, mem_read, size}, ctx_rw),                                    // skb_set_tunnel_opt
    moves(31, {ctx, scalar, scalar}),                                           // skb_change_proto
    acts(32, {ctx, scalar}, ctx_rw),                                            // skb_change_type
    acts(33, {ctx, map, scalar}, reads_ctx),                                    // skb_under_cgroup
    acts(34, {ctx}, reads_packet | ctx_rw),                                     // get_hash_recalc
    asks(35),                                                                   // get_current_task
    moves(38, {ctx, scalar, scalar}),                                           // skb_change_tail
    moves(39, {ctx, scalar}),                                                   // skb_pull_data
    acts(40, {ctx, scalar}, ctx_rw),                                            // csum_update
    acts(41, {ctx}, ctx_rw, Ret::none),                                         // set_hash_invalid
    asks(42),                                                                   // get_numa_node_id
    moves(43, {ctx, scalar, scalar}),                                           // skb_change_head
    moves(44, {ctx, scalar}),                                                   // xdp_adjust_head
    acts(45, {mem_write, size, any}, reads_all),                                // probe_read_str
    acts(46, {any}, reads_ctx),                                                 // get_socket_cookie
    asks(47, {ctx}, reads_ctx),                                                 // get_socket_uid
    acts(48, {ctx, scalar}, ctx_rw),                                            // set_hash
    moves(50, {ctx, scalar, scalar, scalar}),                                   // skb_adjust_room
    acts(51, {map, scalar, scalar}),                                            // redirect_map
    moves(54, {ctx, scalar}),                                                   // xdp_adjust_meta
    moves(65, {ctx, scalar}),                                                   // xdp_adjust_tail
    acts(68, {ctx, scalar, mem_write, size, scalar}, reads_packet | reads_ctx), // skb_load_bytes_relative
    acts(69, {ctx, mem_rw, size, scalar}, reads_ctx),                           // fib_lookup
    asks(79, {ctx}, reads_ctx),                                                 // skb_cgroup_id
    asks(80),                                                                   // get_current_cgroup_id
    asks(83, {ctx, scalar}, reads_ctx),                                         // skb_ancestor_cgroup_id
    acts(84, {ctx, mem_read, size, scalar, scalar}, reads_ctx, Ret::object_or_null), // sk_lookup_tcp
    acts(85, {ctx, mem_read, size, scalar, scalar}, reads_ctx, Ret::object_or_null), // sk_lookup_udp
    acts(86, {any}, touches_everything),                                             // sk_release
    acts(87, {map, value, scalar}, maps_rw),                                         // map_push_elem
    acts(88, {map, value_out}, maps_rw),                                             // map_pop_elem
    acts(89, {map, value_out}, maps_rw),                                             // map_peek_elem
    with_fixed(4, acts(93, {fixed_mem}, maps_rw)),                                   // spin_lock
    with_fixed(4, acts(94, {fixed_mem}, maps_rw)),                                   // spin_unlock
    acts(95, {any}, touch_nothing, Ret::object_or_null),                             // sk_fullsock
    acts(96, {any}, touch_nothing, Ret::object_or_null),                             // tcp_sock
    moves(97, {ctx}),                                                                // skb_ecn_set_ce
    acts(98, {any}, touch_nothing, Ret::object_or_null),                             // get_listener_sock
    acts(99, {ctx, mem_read, size, scalar, scalar}, reads_ctx, Ret::object_or_null), // skc_lookup_tcp
    acts(100, {any, mem_read, size, mem_read, size}),                                // tcp_check_syncookie
    with_fixed(8, acts(105, {mem_read, size, scalar, fixed_mem})),                   // strtol
    with_fixed(8, acts(106, {mem_read, size, scalar, fixed_mem})),                   // strtoul
    acts(110, {any, mem_read, size, mem_read, size}),                                // tcp_gen_syncookie
    acts(111, {ctx, map, scalar, mem_read, size}, reads_all),                        // skb_output
    acts(112, {mem_write, size, any}, reads_all),                                    // probe_read_user
    acts(113, {mem_write, size, any}, reads_all),                                    // probe_read_kernel
    acts(114, {mem_write, size, any}, reads_all),                                    // probe_read_user_str
    acts(115, {mem_write, size, any}, reads_all),                                    // probe_read_kernel_str
    asks(118),                                                                       // jiffies64
    acts(121, {ctx, map, scalar, mem_read, size}, reads_all),                        // xdp_output
    asks(122, {any}, reads_ctx),                                                     // get_netns_cookie
    acts(124, {ctx, any, scalar}, ctx_rw),                                           // sk_assign
    asks(125),                                                                       // ktime_get_boot_ns
    acts(130, {map, mem_read, size, scalar}),                                        // ringbuf_output
    acts(131, {map, scalar, scalar}, touch_nothing, Ret::mem_or_null),               // ringbuf_reserve
    keeps_pointer(acts(132, {any, scalar}, maps_rw, Ret::none)),                     // ringbuf_submit
    keeps_pointer(acts(133, {any, scalar}, maps_rw, Ret::none)),                     // ringbuf_discard
    acts(134, {map, scalar}),                                                        // ringbuf_query
    acts(135, {ctx, scalar}, ctx_rw),                                                // csum_level
    asks(151, {ctx}, reads_ctx),                                                     // skb_cgroup_classid
    acts(152, {scalar, mem_read, size, scalar}),                                     // redirect_neigh
    acts(155, {scalar, scalar}),                                                     // redirect_peer
    asks(160),                                                                       // ktime_get_coarse_ns
    with_fixed(4, acts(163, {ctx, scalar, fixed_mem, scalar, scalar}, reads_ctx)),   // check_mtu
    calls_back(acts(164, {map, func, callback_ctx, scalar})),                        // for_each_map_elem
    acts(177, {mem_read, size, mem_read, size}, reads_all),                          // trace_vprintk
    calls_back(acts(181, {scalar, func, callback_ctx, scalar})),                     // loop
    acts(182, {mem_read, size, any}, reads_maps),                                    // strncmp
    asks(188, {ctx}, reads_ctx),                                                     // xdp_get_buff_len
    acts(189, {ctx, scalar, mem_write, size}, reads_packet | reads_ctx),             // xdp_load_bytes
    acts(190, {ctx, scalar, mem_read, size}, packet_rw | reads_ctx),                 // xdp_store_bytes
    acts(192, {ctx, scalar, scalar}, ctx_rw),                                        // skb_set_tstamp
    acts(195, {map, key, scalar}, touch_nothing, Ret::map_value_or_null),            // map_lookup_percpu_elem
    with_fixed(20, acts(204, {fixed_mem, mem_read, size})), // tcp_raw_gen_syncookie_ipv4
    with_fixed(40, acts(205, {fixed_mem, mem_read, size})), // tcp_raw_gen_syncookie_ipv6
    with_fixed(20, acts(206, {fixed_mem, fixed_mem})),      // tcp_raw_check_syncookie_ipv4
    asks(208),                                              // ktime_get_tai_ns
};

static_assert(std::is_sorted(std::begin(rows), std::end(rows),
                             [](const HelperEffects &a, const HelperEffects &b) { return a.id < b.id; }));

} // namespace

std::span<const HelperEffects> effects_table() { return rows; }

} // namespace ujit
