/* SPDX-License-Identifier: GPL-2.0
 *
 * The code that each module brings along beside its image. Nothing in here is from the kernel's headers: what it
 * must know of the kernel is in ujit_module_table, and it is compiled once, when ujit-lto is built.
 *
 * Two functions are resolved by the kernel's own loader, snprintf() and _printk(). All others, and all that the
 * image calls, are addresses that were read when the image was linked. So the first thing that init does is to
 * ask for the name of each of them, before it calls any. Then it takes a reference on each map and program and
 * compares what it got with what the image was made of.
 *
 * Who may call the entries: programs which the process that loaded the module loads, as long as it holds the
 * file that init opens for it. A write to the file, or its end (which the kernel sees to when the process dies),
 * seals the module for good; the write also tells whether the programs that use the module are as many as the
 * process loaded. Where the kernel filters users of kfuncs (since 6.4), programs of other processes are
 * refused at any time. Where it does not, the seal empties the set of kfuncs, and no entry runs the image before
 * the users were counted: who slipped in keeps it from ever running.
 */
#include "kernel-iface/linux/module_table.h"

#define INIT __attribute__((section(".init.text"), noinline))
#define ERROR(...) _printk("\0013" __VA_ARGS__)
#define O_RDWR 02
#define O_CLOEXEC 02000000

/* Resolved by the kernel's loader. */
int _printk(const char *format, ...);
int snprintf(char *to, unsigned long size, const char *format, ...);

/* By address, checked. */
unsigned long kallsyms_lookup_name(const char *name);
void *bpf_map_get(uint32_t fd);
void bpf_map_put(void *map);
void *bpf_prog_get_type_dev(uint32_t fd, uint32_t type, _Bool offloaded);
void bpf_prog_put(void *program);
int register_btf_kfunc_id_set(uint32_t program_type, const void *set);
int anon_inode_getfd(const char *name, const void *operations, void *data, int flags);
uint64_t bpf_get_current_pid_tgid(void);
int module_refcount(const void *module);

/* Written by write_module(). */
extern const struct ujit_module_table ujit_module_table;     /* .init.rodata */
extern const struct ujit_module_objects ujit_module_objects; /* .rodata */
extern const char ujit_module_name[];                        /* .rodata */
extern const char ujit_module_entries[];                     /* .text: the kfuncs */
extern char ujit_module_file[];                              /* .data: struct file_operations */
extern struct {
  uint32_t count, flags;
} ujit_module_set;           /* .data: struct btf_id_set8 */
extern char __this_module[]; /* struct module */

uint32_t ujit_module_live; /* the kfuncs test it where the kernel has no filters */

static void *kfunc_set[16]; /* struct btf_kfunc_id_set */
static uint32_t loader;     /* process that may load stubs; 0: sealed */
static char text[1024] __attribute__((section(".init.data")));

#define TABLE(type, rows) ((const type *)((const char *)&ujit_module_table + ujit_module_table.rows.at))
#define NAME(row) ((const char *)&ujit_module_table + (row)->name)
#define FIELD(type, object, member) (*(const type *)((const char *)(object) + ujit_module_table.member))

static _Bool is_error(const void *p) { return (uint64_t)p >= (uint64_t)-4095; }

static uint32_t this_process(void) { return bpf_get_current_pid_tgid() >> 32; }

/* kfunc filter: 0 allows. */
static int refuse(const void *program, uint32_t kfunc) {
  const uint32_t allowed = *(volatile uint32_t *)&loader;
  return allowed && this_process() == allowed ? 0 : -13;
}

/* file_operations.release */
int ujit_module_seal(void *inode, void *file) {
  *(volatile uint32_t *)&loader = 0;
  /* Until 6.9 the kernel reads our set; later it has a copy, and asks refuse(). */
  *(volatile uint32_t *)&ujit_module_set.count = 0;
  return 0;
}

/* file_operations.write: `length` is the number of programs that should use the module. Whoever passed the
 * kernel's checks before the seal holds a reference, as does the file. Can be repeated: also who fails to load holds
 * one for a moment. */
long ujit_module_start(void *file, const char *bytes, unsigned long length, int64_t *position) {
  ujit_module_seal(0, file);
  if (module_refcount(__this_module) != (long)length + 1)
    return -16; /* EBUSY */
  *(volatile uint32_t *)&ujit_module_live = 1;
  return length;
}

static void drop(uint32_t maps, uint32_t programs) {
  while (programs)
    bpf_prog_put((void *)ujit_module_objects.addresses[ujit_module_objects.maps + --programs]);
  while (maps)
    bpf_map_put((void *)ujit_module_objects.addresses[--maps]);
}

/* text is NAME+0x0/... */
INIT static _Bool text_starts_at(const char *name) {
  const char *t = text;
  for (; *name; ++name, ++t)
    if (*t != *name)
      return 0;
  return t[0] == '+' && t[1] == '0' && t[2] == 'x' && t[3] == '0' && t[4] == '/';
}

/* The table's first row is kallsyms_lookup_name, so that it can be called for the others: a second name of
 * the same address, or a per-CPU variable, which has no address that %pS knows. */
INIT static int check_symbols(void) {
  const struct ujit_symbol *s = TABLE(struct ujit_symbol, symbols);
  for (uint32_t i = 0; i < ujit_module_table.symbols.count; ++i, ++s) {
    snprintf(text, sizeof text, "%pS", (void *)s->address);
    if (text_starts_at(NAME(s)) || (i > 0 && kallsyms_lookup_name(NAME(s)) == s->address))
      continue;
    ERROR("%s: %s is not where it was when the image was linked\n", ujit_module_name, NAME(s));
    return -ujit_symbol_moved;
  }
  return 0;
}

/* The verifier finds kfuncs by name in the whole kernel. */
INIT static int check_entries(void) {
  const struct ujit_entry *e = TABLE(struct ujit_entry, entries);
  for (uint32_t i = 0; i < ujit_module_table.entries.count; ++i, ++e)
    if (kallsyms_lookup_name(NAME(e)) != (unsigned long)(ujit_module_entries + e->code)) {
      ERROR("%s: the kernel has another function of the name %s\n", ujit_module_name, NAME(e));
      return -ujit_name_taken;
    }
  return 0;
}

INIT static int check_map(const struct ujit_map *want, const void *map) {
  if ((uint64_t)map != want->address || FIELD(uint32_t, map, map_id_at) != want->id) {
    ERROR("%s: descriptor %d is map %u now, not the map %u that was captured\n", ujit_module_name, want->fd,
          FIELD(uint32_t, map, map_id_at), want->id);
    return -ujit_map_differs;
  }
  if (FIELD(uint32_t, map, map_type_at) != want->type ||
      FIELD(uint32_t, map, map_key_size_at) != want->key_size ||
      FIELD(uint32_t, map, map_value_size_at) != want->value_size ||
      FIELD(uint32_t, map, map_max_entries_at) != want->max_entries ||
      FIELD(uint32_t, map, map_flags_at) != want->flags || FIELD(uint64_t, map, map_extra_at) != want->extra) {
    ERROR("%s: map %u has another type, size or flags than the image was linked for\n", ujit_module_name,
          want->id);
    return -ujit_map_shape;
  }
  return 0;
}

INIT static int check_program(const struct ujit_program *want, const char *program) {
  const void *aux = FIELD(void *, program, program_aux_at);
  if ((uint64_t)program != want->address || FIELD(uint32_t, aux, aux_id_at) != want->id ||
      FIELD(uint64_t, aux, aux_load_time_at) != want->load_time) {
    ERROR("%s: descriptor %d is not the program %u that was captured\n", ujit_module_name, want->fd, want->id);
    return -ujit_program_differs;
  }
  if (FIELD(uint32_t, program, program_len_at) != want->length ||
      ujit_insns_hash((const uint64_t *)(program + ujit_module_table.program_insns_at), want->length) !=
          want->hash) {
    ERROR("%s: program %u has other instructions than were captured\n", ujit_module_name, want->id);
    return -ujit_program_changed;
  }
  return 0;
}

/* Takes all references, or none. */
INIT static int hold(void) {
  const struct ujit_map *m = TABLE(struct ujit_map, maps);
  const struct ujit_program *p = TABLE(struct ujit_program, programs);
  uint32_t maps = 0, programs = 0;
  int error = 0;
  for (; !error && maps < ujit_module_table.maps.count; ++m) {
    void *map = bpf_map_get(m->fd);
    error = is_error(map) ? (int)(long)map : check_map(m, map);
    if (!error)
      ++maps;
    else if (!is_error(map))
      bpf_map_put(map);
    else
      ERROR("%s: descriptor %d is no map\n", ujit_module_name, m->fd);
  }
  for (; !error && programs < ujit_module_table.programs.count; ++p) {
    void *program = bpf_prog_get_type_dev(p->fd, p->type, 0);
    error = is_error(program) ? (int)(long)program : check_program(p, program);
    if (!error)
      ++programs;
    else if (!is_error(program))
      bpf_prog_put(program);
    else
      ERROR("%s: descriptor %d is no program of the type that was captured\n", ujit_module_name, p->fd);
  }
  if (error)
    drop(maps, programs);
  return error;
}

INIT int ujit_module_init(void) {
  int error = check_symbols();
  if (!error)
    error = check_entries();
  if (!error)
    error = hold();
  if (error)
    return error;
  loader = this_process();
  kfunc_set[0] = __this_module;
  kfunc_set[1] = &ujit_module_set;
  if (ujit_module_table.set_filter_at)
    kfunc_set[ujit_module_table.set_filter_at / 8] = (void *)refuse;
  error = register_btf_kfunc_id_set(ujit_module_table.program_type, kfunc_set);
  if (error)
    ERROR("%s: register_btf_kfunc_id_set: %d\n", ujit_module_name, error);
  else {
    const int fd = anon_inode_getfd(ujit_module_name, ujit_module_file, 0, O_RDWR | O_CLOEXEC);
    error = fd < 0 ? fd : 0;
    if (error)
      ERROR("%s: anon_inode_getfd: %d\n", ujit_module_name, error);
  }
  if (error)
    drop(ujit_module_objects.maps, ujit_module_objects.programs);
  return error;
}

/* No program that calls an entry is left: each holds a reference on the module. */
void ujit_module_exit(void) { drop(ujit_module_objects.maps, ujit_module_objects.programs); }
