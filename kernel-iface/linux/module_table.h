/* What write_module() tells a module's own code (module_init.c): what it has to find in the kernel that it is
 * loaded into. Shared by C and C++. Members named `..._at` are byte offsets in structs of that kernel; `name`s
 * and tables are offsets from the start of the table. */
#ifndef UJIT_MODULE_TABLE_H
#define UJIT_MODULE_TABLE_H

#include <stdint.h>

/* What init returns, negated. Numbers that the kernel's loader does not use itself, so that each has one
 * meaning; what bpf() and the loader return passes through. */
enum ujit_module_error {
  ujit_symbol_moved = 116,    /* ESTALE */
  ujit_name_taken = 76,       /* ENOTUNIQ */
  ujit_map_differs = 78,      /* EREMCHG */
  ujit_map_shape = 117,       /* EUCLEAN */
  ujit_program_differs = 52,  /* EBADE */
  ujit_program_changed = 74,  /* EBADMSG */
};

struct ujit_symbol {
  uint64_t address;
  uint32_t name;
  uint32_t unused;
};

struct ujit_entry {
  uint32_t name;
  uint32_t code; /* bytes behind ujit_module_entries */
};

struct ujit_map {
  uint64_t address, extra;
  uint32_t fd, id, type, key_size, value_size, max_entries, flags, unused;
};

struct ujit_program {
  uint64_t address, load_time, hash;
  uint32_t fd, id, type, length;
};

struct ujit_rows {
  uint32_t at, count;
};

struct ujit_module_table {
  uint32_t program_type; /* of the kfuncs' callers */
  struct ujit_rows symbols, entries, maps, programs;
  uint32_t map_id_at, map_type_at, map_key_size_at, map_value_size_at, map_max_entries_at, map_flags_at,
      map_extra_at;
  uint32_t program_len_at, program_insns_at, program_aux_at, aux_id_at, aux_load_time_at;
  uint32_t set_filter_at; /* in struct btf_kfunc_id_set; 0: this kernel has no filters */
};

/* Kept for as long as the module lives: addresses of maps, then of programs. */
struct ujit_module_objects {
  uint32_t maps, programs;
  uint64_t addresses[];
};

/* Sum over a program's instructions. Single changes always change it. */
static inline uint64_t ujit_insns_hash(const uint64_t *insns, uint32_t length) {
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t i = 0; i < length; ++i) {
    h = (h ^ insns[i]) * 0x100000001b3;
    h ^= h >> 32;
  }
  return h;
}

#endif
