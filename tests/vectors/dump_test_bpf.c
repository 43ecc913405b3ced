/* Prints the eBPF vectors of the kernel's lib/test_bpf.c, whose tables test_bpf_tables.inc holds. */
#include "shim.h"
#include "insn_macros.inc"

#ifndef BPF_TAIL_CALL
#define BPF_TAIL_CALL 0xf0
#endif
#define MAX_TAIL_CALL_CNT 33
#define SKF_AD_VLAN_TPID_SKIP 0
#define BPF_CALL_1(name, type, arg) static __attribute__((unused)) u64 name(type arg)
#include "test_bpf_tables.inc"

static unsigned length(const struct bpf_insn *insns) {
  unsigned len = 0, i;
  for (i = 0; i < MAX_INSNS; i++)
    if (insns[i].code || insns[i].imm || insns[i].off || insns[i].dst_reg || insns[i].src_reg)
      len = i + 1;
  return len;
}

int main(void) {
  for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
    struct bpf_test *t = &tests[i];
    if ((t->aux & TEST_TYPE_MASK) != INTERNAL)
      continue;
    const struct bpf_insn *insns = t->u.insns_int;
    unsigned len;
    if (t->fill_helper) {
      if (t->fill_helper(t) < 0)
        continue;
      insns = t->u.ptr.insns;
      len = t->u.ptr.len;
    } else {
      len = length(insns);
    }
    printf("vector %s\n", t->descr);
    for (int k = 0; k < MAX_SUBTESTS; k++) {
      if (k > 0 && !t->test[k].data_size && !t->test[k].result)
        break;
      if (t->aux & FLAG_NO_DATA)
        printf("run 0 %u\n", t->test[k].result);
      else if (t->aux & FLAG_LARGE_MEM)
        printf("run %d %u\n", t->test[k].data_size, t->test[k].result);
      else
        printf("run %d %u\n", MAX_DATA, t->test[k].result);
    }
    if (t->aux & FLAG_EXPECTED_FAIL)
      printf("fails\n");
    printf("code ");
    put_insns(insns, len);
  }
  for (size_t i = 0; i < ARRAY_SIZE(tail_call_tests); i++) {
    struct tail_call_test *t = &tail_call_tests[i];
    printf("tail %s\n", t->descr);
    if (t->flags & FLAG_RESULT_IN_STATE)
      printf("state 1\n");
    /* The kernel runs each a thousand times on one state. */
    printf("run 0 %u\n", t->flags & FLAG_RESULT_IN_STATE ? t->result / 1000 : t->result);
    printf("code ");
    put_insns(t->insns, length(t->insns));
  }
  return 0;
}
