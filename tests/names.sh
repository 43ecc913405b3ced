#!/bin/sh
# One definition of each type: linkers do not notice when two files define different classes of one name in one
# namespace (their inline members are merged by name, whatever they say). What a file keeps to itself is in an
# unnamed namespace. Prints types of namespace scope that two files define; its exit code is 0 if there are none.
cd "$(dirname "$0")/.." || exit 2
find graph kernel-iface lto tests translator -name '*.cc' -o -name '*.h' | sort | xargs awk '
  FNR == 1 { unnamed = 0; space = "" }
  /^namespace \{/ { unnamed = 1 }
  /^\} \/\/ namespace$/ { unnamed = 0 }
  /^namespace [a-z]/ { space = $2 }
  !unnamed && /^(struct|class|union|enum|enum class) [A-Za-z_0-9]+( final)?( :[^:].*)? *\{/ {
    name = $0
    sub(/^(enum class|struct|class|union|enum) /, "", name)
    sub(/[^A-Za-z_0-9].*/, "", name)
    name = space "::" name
    if (name in where && where[name] != FILENAME) {
      printf "%s is defined in %s and in %s\n", name, where[name], FILENAME
      twice = 1
    }
    where[name] = FILENAME
  }
  END { exit twice }'
