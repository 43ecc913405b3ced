# To be sourced: what the sanitizers are told. A finding is a failure at once; what is left out of reports stands
# in tsan.supp, each line with its reason; ASan, UBSan and the search for leaks leave nothing out.
suppressions=$(cd "$(dirname "${BASH_SOURCE:-$0}")" && pwd)
export ASAN_OPTIONS=abort_on_error=0:detect_leaks=1:detect_stack_use_after_return=1:check_initialization_order=1:strict_init_order=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=suppressions=$suppressions/tsan.supp:print_suppressions=0:halt_on_error=1:second_deadlock_stack=1
