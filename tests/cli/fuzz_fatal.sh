# A link that takes the fuzzer's process with it: the sample that does it is found, and written as a case file,
# which agrees without the fault.
tools=$(dirname "$UJIT_LTO")
"$tools/ujit-fuzz" --seed 1 --count 8 --kernel 0 --mutants 0 --plant-fatal 5 >out 2>err
code=$?
expect 1 "batch 1: Illegal instruction" "seed 5 (variation 1): " "seed 5: written to ./fuzz-5.case"
mkdir cases && mv fuzz-5.case cases || die "no case file"
"$tools/ujit-cases" cases >out 2>err
code=$?
expect 0 "1 passed, 0 failed"
