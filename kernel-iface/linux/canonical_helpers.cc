// From the kernel function that a verified program calls back to the helper that its author called. For most
// helpers the function bears the helper's name. The rest is this table: one helper has several
// implementations by program type, and the verifier replaces helpers on maps by the map type's own operation.
#include "kernel-iface/linux/canonical_program.h"
#include "translator/helper.h"

#include <algorithm>
#include <array>

namespace ujit {
namespace {

struct Row {
  std::string_view symbol, helper;
};

constexpr Row implementations[] = {
    // net/core/filter.c: sched_cls_func_proto() and what it falls back to
    {"bpf_get_raw_cpu_id", "bpf_get_smp_processor_id"},
    {"bpf_skb_check_mtu", "bpf_check_mtu"},
    {"bpf_skb_event_output", "bpf_perf_event_output"},
    {"bpf_skb_fib_lookup", "bpf_fib_lookup"},
    {"bpf_tc_sk_lookup_tcp", "bpf_sk_lookup_tcp"},
    {"bpf_tc_sk_lookup_udp", "bpf_sk_lookup_udp"},
    {"bpf_tc_skc_lookup_tcp", "bpf_skc_lookup_tcp"},
    {"bpf_user_rnd_u32", "bpf_get_prandom_u32"},
    // xdp_func_proto()
    {"bpf_xdp_check_mtu", "bpf_check_mtu"},
    {"bpf_xdp_event_output", "bpf_perf_event_output"},
    {"bpf_xdp_fib_lookup", "bpf_fib_lookup"},
    {"bpf_xdp_redirect", "bpf_redirect"},
    {"bpf_xdp_redirect_map", "bpf_redirect_map"},
    {"bpf_xdp_sk_lookup_tcp", "bpf_sk_lookup_tcp"},
    {"bpf_xdp_sk_lookup_udp", "bpf_sk_lookup_udp"},
    {"bpf_xdp_skc_lookup_tcp", "bpf_skc_lookup_tcp"},
    // kernel/bpf/arraymap.c, hashtab.c, lpm_trie.c, ...: map_lookup_elem
    {"array_map_lookup_elem", "bpf_map_lookup_elem"},
    {"array_of_map_lookup_elem", "bpf_map_lookup_elem"},
    {"percpu_array_map_lookup_elem", "bpf_map_lookup_elem"},
    {"htab_map_lookup_elem", "bpf_map_lookup_elem"},
    {"htab_lru_map_lookup_elem", "bpf_map_lookup_elem"},
    {"htab_percpu_map_lookup_elem", "bpf_map_lookup_elem"},
    {"htab_lru_percpu_map_lookup_elem", "bpf_map_lookup_elem"},
    {"htab_of_map_lookup_elem", "bpf_map_lookup_elem"},
    {"trie_lookup_elem", "bpf_map_lookup_elem"},
    {"__dev_map_lookup_elem", "bpf_map_lookup_elem"},
    {"dev_map_lookup_elem", "bpf_map_lookup_elem"},
    {"dev_map_hash_lookup_elem", "bpf_map_lookup_elem"},
    {"cpu_map_lookup_elem", "bpf_map_lookup_elem"},
    {"xsk_map_lookup_elem", "bpf_map_lookup_elem"},
    {"sock_map_lookup", "bpf_map_lookup_elem"},
    {"sock_hash_lookup", "bpf_map_lookup_elem"},
    // map_lookup_percpu_elem
    {"percpu_array_map_lookup_percpu_elem", "bpf_map_lookup_percpu_elem"},
    {"htab_percpu_map_lookup_percpu_elem", "bpf_map_lookup_percpu_elem"},
    {"htab_lru_percpu_map_lookup_percpu_elem", "bpf_map_lookup_percpu_elem"},
    // map_update_elem
    {"array_map_update_elem", "bpf_map_update_elem"},
    {"htab_map_update_elem", "bpf_map_update_elem"},
    {"htab_lru_map_update_elem", "bpf_map_update_elem"},
    {"htab_percpu_map_update_elem", "bpf_map_update_elem"},
    {"htab_lru_percpu_map_update_elem", "bpf_map_update_elem"},
    {"trie_update_elem", "bpf_map_update_elem"},
    {"sock_map_update_elem", "bpf_map_update_elem"},
    // map_delete_elem
    {"array_map_delete_elem", "bpf_map_delete_elem"},
    {"htab_map_delete_elem", "bpf_map_delete_elem"},
    {"htab_lru_map_delete_elem", "bpf_map_delete_elem"},
    {"trie_delete_elem", "bpf_map_delete_elem"},
    {"sock_map_delete_elem", "bpf_map_delete_elem"},
    {"sock_hash_delete_elem", "bpf_map_delete_elem"},
    // kernel/bpf/queue_stack_maps.c, bloom_filter.c
    {"queue_stack_map_push_elem", "bpf_map_push_elem"},
    {"queue_map_pop_elem", "bpf_map_pop_elem"},
    {"stack_map_pop_elem", "bpf_map_pop_elem"},
    {"queue_map_peek_elem", "bpf_map_peek_elem"},
    {"stack_map_peek_elem", "bpf_map_peek_elem"},
    {"bloom_map_push_elem", "bpf_map_push_elem"},
    {"bloom_map_peek_elem", "bpf_map_peek_elem"},
    // map_redirect
    {"dev_map_redirect", "bpf_redirect_map"},
    {"dev_hash_map_redirect", "bpf_redirect_map"},
    {"cpu_map_redirect", "bpf_redirect_map"},
    {"xsk_map_redirect", "bpf_redirect_map"},
    // map_for_each_callback
    {"bpf_for_each_array_elem", "bpf_for_each_map_elem"},
    {"bpf_for_each_hash_elem", "bpf_for_each_map_elem"},
};

/// Helpers whose callback runs after the program: it would pin the program's code and not the image's. And
/// those that leave the program in ways of their own.
constexpr std::string_view refused[] = {
    "bpf_timer_init",        "bpf_timer_set_callback", "bpf_timer_start",        "bpf_timer_cancel",
    "bpf_get_local_storage", "bpf_tail_call",          "bpf_user_ringbuf_drain", "bpf_find_vma"};

bool is_network(ProgType type) {
  return type == ProgType::xdp || type == ProgType::sched_cls || type == ProgType::sched_act ||
         type == ProgType::socket_filter || type == ProgType::cgroup_skb;
}

} // namespace

std::optional<HelperOfSymbol> helper_of_symbol(ProgType type, std::string_view symbol) {
  if (std::ranges::find(refused, symbol) != std::end(refused))
    return std::nullopt;
  if (const Helper *h = find_helper(symbol))
    return HelperOfSymbol{h->id, true};
  if (!is_network(type) && symbol.ends_with("_event_output"))
    return std::nullopt; // there these implement bpf_skb_output and bpf_xdp_output
  auto row = std::ranges::find(implementations, symbol, &Row::symbol);
  if (row == std::end(implementations))
    return std::nullopt;
  return HelperOfSymbol{find_helper(row->helper)->id, false};
}

} // namespace ujit
