// Brings the support code into the test executable, whose sources are found by name.
#include "tests/support/case_file.cc"
#include "tests/support/conformance.cc"
#include "tests/support/simple_host.cc"
