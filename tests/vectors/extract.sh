#!/bin/sh
# Takes the tables of test vectors out of Debian's kernel source ($1) and prints them in plain form into folder $2:
# test_bpf.txt and verifier.txt. Nothing of the kernel source is kept in this repository.
set -e
tarball=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
top=$(basename "$tarball" .tar.xz)
mkdir -p "$out"
cd "$out"
tests=$top/tools/testing/selftests/bpf
[ -f "$tests/test_verifier.c" ] ||
  tar xf "$tarball" "$top/lib/test_bpf.c" "$top/include/linux/filter.h" "$top/tools/include/linux/filter.h" "$tests/test_verifier.c" "$tests/verifier" \
    "$tests/bpf_rand.h" "$tests/test_btf.h"
cp "$top/tools/include/linux/filter.h" tools_filter.h
# How instructions are written.
awk '/^#define BPF_REG_ARG1/ { on = 1 } /^#define bytes_to_bpf_size/ { on = 0 } on' \
  "$top/include/linux/filter.h" >insn_macros.inc
# All up to the end of the table; then the tail-call tests.
awk '/^#define MAX_SUBTESTS/ { on = 1 }
     /^static struct net_device dev;/ { on = 0 }
     /^struct tail_call_test \{/ { on = 1 }
     /^static void __init destroy_tail_call_tests/ { on = 0 }
     on' "$top/lib/test_bpf.c" >test_bpf_tables.inc
# The same of the verifier's tests, whose table includes all files of a folder.
(cd "$tests" && for f in verifier/*.c; do echo "#include \"$tests/$f\""; done) >verifier_files.inc
awk '/^#define MAX_INSNS/ { on = 1 }
     /#include <verifier\/tests.h>/ { print "#include \"verifier_files.inc\""; next }
     /^#include/ { next }
     /^static int probe_filter_length/ { on = 0 }
     on' "$tests/test_verifier.c" >verifier_tables.inc
for table in test_bpf verifier; do
  cc -w -O1 -std=gnu11 -I"$here" -I. -I"$tests" -o dump_$table "$here/dump_$table.c"
  ./dump_$table >$table.txt
done
