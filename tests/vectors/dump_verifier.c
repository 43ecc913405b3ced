/* Prints those tests of the selftests' verifier/*.c that the verifier accepts and that need no maps, functions of the
   kernel or BTF. */
#include "shim.h"
#include <assert.h>
#include <linux/bpf_perf_event.h>
#include "tools_filter.h"
#include "test_btf.h"
#include "bpf_rand.h"
#include "verifier_tables.inc"

static bool any(const int *fixups) {
  for (int i = 0; i < MAX_FIXUPS; i++)
    if (fixups[i])
      return true;
  return false;
}

static bool needs_more(struct bpf_test *t) {
  const int *first = t->fixup_map_hash_8b, *last = t->fixup_map_kptr;
  for (const int *f = first; f <= last; f += MAX_FIXUPS)
    if (any(f))
      return true;
  return t->kfunc || t->func_info_cnt || t->fixup_kfunc_btf_id[0].kfunc;
}

int main(void) {
  for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
    struct bpf_test *t = &tests[i];
    if (t->result == REJECT || needs_more(t))
      continue;
    const unsigned type = t->prog_type ? t->prog_type : BPF_PROG_TYPE_SOCKET_FILTER;
    if (type != BPF_PROG_TYPE_SOCKET_FILTER && type != BPF_PROG_TYPE_SCHED_CLS && type != BPF_PROG_TYPE_XDP)
      continue;
    const struct bpf_insn *insns = t->insns;
    if (t->fill_helper) {
      t->fill_insns = calloc(MAX_TEST_INSNS, sizeof(struct bpf_insn));
      t->fill_helper(t);
      insns = t->fill_insns;
    }
    unsigned len = t->prog_len;
    if (!len)
      for (unsigned k = 0; k < (t->fill_helper ? MAX_TEST_INSNS : MAX_INSNS); k++)
        if (insns[k].code || insns[k].imm || insns[k].off || insns[k].dst_reg || insns[k].src_reg)
          len = k + 1;
    printf("vector %s\ntype %u\n", t->descr, type);
    for (int k = 0; k < (t->runs ? t->runs : 1); k++) {
      const bool one = t->runs <= 1;
      printf("packet ");
      for (int b = 0; b < TEST_DATA_LEN; b++)
        printf("%02x", one ? t->data[b] : t->retvals[k].data[b]);
      printf(" %u\n", one ? t->retval : t->retvals[k].retval);
    }
    printf("code ");
    put_insns(insns, len);
    if (t->fill_helper)
      free(t->fill_insns);
  }
  return 0;
}
