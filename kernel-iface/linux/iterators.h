// What the programs in iterators.bpf.c and the capture tell each other; C, for both.
#ifndef UJIT_ITERATORS_H
#define UJIT_ITERATORS_H

#include <linux/types.h>

enum {
  copy_page_bytes = 4096, // of kernel memory that one request copies
  copy_page_count = 1024,
  symbol_key_bytes = 64,   // names that are asked for, zero-padded
  symbol_name_bytes = 128, // names that are told
};

enum {
  program_gpl = 1 << 0,
  program_cb_access = 1 << 1,
  program_dst_needed = 1 << 2,
  program_kprobe_override = 1 << 3,
  program_frags = 1 << 4,
  program_blinded = 1 << 5,
  program_classic = 1 << 6,
  program_sleepable = 1 << 7,
  program_device_bound = 1 << 8,
  program_cgroup_storage = 1 << 9,
  program_extended = 1 << 10,
  program_not_jited = 1 << 11,
};

/// iter/bpf_prog: one for each wanted program, its functions behind it.
struct program_record {
  __u64 address, insnsi;
  __u32 id, type, attach_type, length;
  __u32 flags;
  __u32 functions; // records that follow: one for a program without subprograms
};
struct function_record {
  __u64 address; // of the jited code
  __u32 length;  // slots
  __u32 blinded;
  __u8 entry[16]; // first bytes of its code
};

/// iter/bpf_map: one for each wanted map.
struct map_record {
  __u64 address, lookup, update;
  __u64 writers;
  __u64 buckets; // hash tables; 0: none, or one that is not as we know them
  __u32 bucket_count, hash_seed;
  __u32 id;
  __u8 frozen, bypass_spec_v1, special_fields, padding;
};

/// iter/bpf_link: one for each tracing link whose target is a wanted program.
struct link_record {
  __u32 link_id, program_id, target_id, program_type, attach_type;
  char program_name[16];
  __u32 padding;
};

/// iter/ksym: one for each wanted symbol.
struct symbol_record {
  __u64 address;
  char module[64]; // empty: the kernel itself
  char name[symbol_name_bytes];
};

struct symbol_key {
  char name[symbol_key_bytes];
};

/// Request i copies to page i.
struct copy_request {
  __u64 address;
  __u32 length;
  __s32 result;
};
struct copy_page {
  __u8 bytes[copy_page_bytes];
};

#endif
