// Eyes in the kernel: what bpf() does not tell about programs, maps, links and symbols. Loaded once for a
// capture; what is wanted is put into maps. The structs are declared as far as they are needed, and libbpf
// relocates the accesses to the running kernel's layout; members that moved between versions are declared in
// all places where they have been.
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "iterators.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
typedef struct {
  long counter;
} atomic64_t;
struct seq_file;
struct bpf_iter_meta {
  struct seq_file *seq;
};
struct bpf_prog;
struct bpf_prog_aux {
  __u32 id, func_cnt;
  __u32 real_func_cnt; // from 6.7 on: with hidden functions
  bool offload_requested, xdp_has_frags;
  bool dev_bound;   // from 6.3 on
  bool is_extended; // from 6.12 on, and in some stable kernels
  bool sleepable;   // before 6.10
  struct bpf_prog **func;
  void *cgroup_storage[2];
  char name[16];
};
struct bpf_prog {
  __u16 jited : 1;
  __u16 gpl_compatible : 1;
  __u16 cb_access : 1;
  __u16 dst_needed : 1;
  __u16 blinded : 1;
  __u16 kprobe_override : 1;
  enum bpf_prog_type type;
  enum bpf_attach_type expected_attach_type;
  __u32 len;
  void *bpf_func;
  struct bpf_prog_aux *aux;
  void *orig_prog;
  struct bpf_insn insnsi[0];
};
struct bpf_prog___sleepable {
  __u16 sleepable : 1; // from 6.10 on
};
struct bpf_map_ops {
  void *map_lookup_elem, *map_update_elem;
};
struct bpf_map {
  const struct bpf_map_ops *ops;
  enum bpf_map_type map_type;
  __u32 id;
  atomic64_t writecnt;
  bool bypass_spec_v1, frozen;
  void *record;  // from 6.2 on: fields of values that are no plain bytes
  void *off_arr; // before
};
struct bucket;
struct bpf_htab {
  struct bpf_map map;
  struct bucket *buckets;
  __u32 n_buckets, hashrnd;
};
struct bpf_link {
  __u32 id;
  enum bpf_link_type type;
  struct bpf_prog *prog;
};
struct bpf_tramp_link {
  struct bpf_link link;
};
struct bpf_tracing_link {
  struct bpf_tramp_link link;
  struct bpf_prog *tgt_prog;
};
struct kallsym_iter {
  unsigned long value;
  char name[128];
  char module_name[56];
};
struct bpf_iter__bpf_prog {
  struct bpf_iter_meta *meta;
  struct bpf_prog *prog;
};
struct bpf_iter__bpf_map {
  struct bpf_iter_meta *meta;
  struct bpf_map *map;
};
struct bpf_iter__bpf_link {
  struct bpf_iter_meta *meta;
  struct bpf_link *link;
};
struct bpf_iter__ksym {
  struct bpf_iter_meta *meta;
  struct kallsym_iter *ksym;
};
#pragma clang attribute pop

enum { most_functions = 512 };

struct ids {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1 << 16);
  __type(key, __u32);
  __type(value, __u32);
};
struct ids wanted_programs SEC(".maps");
struct ids wanted_maps SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1 << 16);
  __type(key, __u64);
  __type(value, __u32);
} wanted_addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1 << 16);
  __type(key, struct symbol_key);
  __type(value, __u32);
} wanted_names SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, copy_page_count);
  __type(key, __u32);
  __type(value, struct copy_request);
} requests SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, copy_page_count);
  __type(key, __u32);
  __type(value, struct copy_page);
} pages SEC(".maps");

// --- programs

struct function_walk {
  struct seq_file *seq;
  struct bpf_prog **functions;
};

static void write_function(struct seq_file *seq, struct bpf_prog *function) {
  struct function_record record = {};
  record.address = (__u64)BPF_CORE_READ(function, bpf_func);
  record.length = BPF_CORE_READ(function, len);
  record.blinded = BPF_CORE_READ_BITFIELD_PROBED(function, blinded);
  bpf_probe_read_kernel(record.entry, sizeof record.entry, (void *)record.address);
  bpf_seq_write(seq, &record, sizeof record);
}

static long visit_function(__u32 i, struct function_walk *walk) {
  struct bpf_prog *function = 0;
  bpf_probe_read_kernel(&function, sizeof function, walk->functions + i);
  write_function(walk->seq, function);
  return 0;
}

static __u32 flags_of(struct bpf_prog *prog) {
  struct bpf_prog___sleepable *moved = (void *)prog;
  struct bpf_prog_aux *aux = BPF_CORE_READ(prog, aux);
  __u32 flags = 0;
#define FLAG(condition, flag)                                                                                \
  if (condition)                                                                                             \
  flags |= flag
  FLAG(!BPF_CORE_READ_BITFIELD_PROBED(prog, jited), program_not_jited);
  FLAG(BPF_CORE_READ_BITFIELD_PROBED(prog, gpl_compatible), program_gpl);
  FLAG(BPF_CORE_READ_BITFIELD_PROBED(prog, cb_access), program_cb_access);
  FLAG(BPF_CORE_READ_BITFIELD_PROBED(prog, dst_needed), program_dst_needed);
  FLAG(BPF_CORE_READ_BITFIELD_PROBED(prog, blinded), program_blinded);
  FLAG(BPF_CORE_READ_BITFIELD_PROBED(prog, kprobe_override), program_kprobe_override);
  FLAG(BPF_CORE_READ(prog, orig_prog), program_classic);
  FLAG(BPF_CORE_READ(aux, xdp_has_frags), program_frags);
  FLAG(BPF_CORE_READ(aux, offload_requested), program_device_bound);
  if (bpf_core_field_exists(aux->dev_bound))
    FLAG(BPF_CORE_READ(aux, dev_bound), program_device_bound);
  if (bpf_core_field_exists(aux->is_extended))
    FLAG(BPF_CORE_READ(aux, is_extended), program_extended);
  if (bpf_core_field_exists(aux->sleepable))
    FLAG(BPF_CORE_READ(aux, sleepable), program_sleepable);
  if (bpf_core_field_exists(moved->sleepable))
    FLAG(BPF_CORE_READ_BITFIELD_PROBED(moved, sleepable), program_sleepable);
  if (bpf_core_field_exists(aux->cgroup_storage)) {
    FLAG(BPF_CORE_READ(aux, cgroup_storage[0]), program_cgroup_storage);
    FLAG(BPF_CORE_READ(aux, cgroup_storage[1]), program_cgroup_storage);
  }
#undef FLAG
  return flags;
}

SEC("iter/bpf_prog")
int show_program(struct bpf_iter__bpf_prog *ctx) {
  struct seq_file *seq = ctx->meta->seq;
  struct bpf_prog *prog = ctx->prog;
  if (!prog)
    return 0;
  struct bpf_prog_aux *aux = prog->aux;
  struct program_record record = {};
  record.id = aux->id;
  if (!bpf_map_lookup_elem(&wanted_programs, &record.id))
    return 0;
  record.address = (__u64)prog;
  record.insnsi = (__u64)&prog->insnsi;
  record.type = prog->type;
  record.attach_type = prog->expected_attach_type;
  record.length = prog->len;
  record.flags = flags_of(prog);
  record.functions = bpf_core_field_exists(aux->real_func_cnt) ? aux->real_func_cnt : aux->func_cnt;
  struct bpf_prog **functions = BPF_CORE_READ(aux, func);
  if (!functions || record.functions > most_functions)
    record.functions = 0;
  __u32 count = record.functions;
  if (!count)
    record.functions = 1;
  bpf_seq_write(seq, &record, sizeof record);
  if (!count) {
    write_function(seq, prog);
    return 0;
  }
  struct function_walk walk = {seq, functions};
  bpf_loop(count, visit_function, &walk, 0);
  return 0;
}

// --- maps

static bool is_hash_table(struct bpf_map *map) {
  switch (BPF_CORE_READ(map, map_type)) {
  case BPF_MAP_TYPE_HASH:
  case BPF_MAP_TYPE_PERCPU_HASH:
  case BPF_MAP_TYPE_LRU_HASH:
  case BPF_MAP_TYPE_LRU_PERCPU_HASH: return true;
  default: return false;
  }
}

SEC("iter/bpf_map")
int show_map(struct bpf_iter__bpf_map *ctx) {
  struct bpf_map *map = ctx->map;
  if (!map)
    return 0;
  struct map_record record = {};
  record.id = map->id;
  if (!bpf_map_lookup_elem(&wanted_maps, &record.id))
    return 0;
  record.address = (__u64)map;
  record.lookup = (__u64)BPF_CORE_READ(map, ops, map_lookup_elem);
  record.update = (__u64)BPF_CORE_READ(map, ops, map_update_elem);
  record.writers = BPF_CORE_READ(map, writecnt.counter);
  record.frozen = BPF_CORE_READ(map, frozen);
  record.bypass_spec_v1 = BPF_CORE_READ(map, bypass_spec_v1);
  record.special_fields = bpf_core_field_exists(map->record)    ? BPF_CORE_READ(map, record) != 0
                          : bpf_core_field_exists(map->off_arr) ? BPF_CORE_READ(map, off_arr) != 0
                                                                : true;
  struct bpf_htab *table = (void *)map; // table.map is its first member
  if (is_hash_table(map) && bpf_core_field_exists(table->buckets) &&
      bpf_core_field_exists(table->n_buckets) && bpf_core_field_exists(table->hashrnd)) {
    record.buckets = (__u64)BPF_CORE_READ(table, buckets);
    record.bucket_count = BPF_CORE_READ(table, n_buckets);
    record.hash_seed = BPF_CORE_READ(table, hashrnd);
  }
  bpf_seq_write(ctx->meta->seq, &record, sizeof record);
  return 0;
}

// --- links: programs that are attached to programs

SEC("iter/bpf_link")
int show_link(struct bpf_iter__bpf_link *ctx) {
  struct bpf_link *link = ctx->link;
  if (!link || link->type != BPF_LINK_TYPE_TRACING)
    return 0;
  struct bpf_tracing_link *tracing = (void *)link; // link.link is its first member
  struct bpf_prog *target = BPF_CORE_READ(tracing, tgt_prog);
  if (!target)
    return 0;
  struct link_record record = {};
  record.target_id = BPF_CORE_READ(target, aux, id);
  if (!bpf_map_lookup_elem(&wanted_programs, &record.target_id))
    return 0;
  struct bpf_prog *prog = BPF_CORE_READ(link, prog);
  struct bpf_prog_aux *aux = BPF_CORE_READ(prog, aux);
  record.link_id = BPF_CORE_READ(link, id);
  record.program_id = BPF_CORE_READ(aux, id);
  record.program_type = BPF_CORE_READ(prog, type);
  record.attach_type = BPF_CORE_READ(prog, expected_attach_type);
  bpf_probe_read_kernel_str(record.program_name, sizeof record.program_name, aux->name);
  bpf_seq_write(ctx->meta->seq, &record, sizeof record);
  return 0;
}

// --- symbols: all of them stay in the kernel but those that are wanted by address or by name

SEC("iter/ksym")
int show_symbol(struct bpf_iter__ksym *ctx) {
  struct kallsym_iter *symbol = ctx->ksym;
  if (!symbol)
    return 0;
  __u64 address = symbol->value;
  if (!bpf_map_lookup_elem(&wanted_addresses, &address)) {
    struct symbol_key key = {};
    // A longer name does not end inside of the key, and no wanted name fills it.
    bpf_probe_read_kernel_str(&key, sizeof key, &symbol->name);
    if (!bpf_map_lookup_elem(&wanted_names, &key))
      return 0;
  }
  struct symbol_record record = {};
  record.address = address;
  bpf_probe_read_kernel_str(record.module, sizeof record.module, &symbol->module_name);
  bpf_probe_read_kernel_str(record.name, sizeof record.name, &symbol->name);
  bpf_seq_write(ctx->meta->seq, &record, sizeof record);
  return 0;
}

// --- kernel memory in bulk: instructions and slots of prog arrays

static long copy_one(__u32 i, void *unused) {
  struct copy_request *request = bpf_map_lookup_elem(&requests, &i);
  void *page = bpf_map_lookup_elem(&pages, &i);
  if (!request || !page)
    return 1;
  __u32 length = request->length;
  if (length > copy_page_bytes)
    return 1;
  request->result = bpf_probe_read_kernel(page, length, (void *)request->address);
  return 0;
}

struct copy_arguments {
  __u32 count;
};

SEC("syscall")
int copy_memory(struct copy_arguments *arguments) {
  bpf_loop(arguments->count, copy_one, 0, 0);
  return 0;
}

// --- what calls count from: the verifier replaces this call by one of the map's own function, whose address
// is in the map's operations

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} known_call_map SEC(".maps");

SEC("syscall")
int known_call(void *ctx) {
  __u32 zero = 0;
  bpf_map_update_elem(&known_call_map, &zero, &zero, 0);
  return 0;
}

char licence[] SEC("license") = "GPL";
