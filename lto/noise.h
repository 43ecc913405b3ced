// What differs from run to run all the same: clocks, random numbers, free ports. Three executors take turns
// on each packet: the originals, what is compared with them, the originals again. What their own two runs do
// not agree on says nothing about the third.
//
// Clocks never go back, so where two times agree in a word, a time between them has that word as well:
// nothing is forgiven by that rule but what really varies.
#pragma once

#include "lto/trace.h"

#include <map>
#include <string>

namespace ujit {

/// Gives `between` the bytes of `before` wherever `before` and `after` differ, by words of four bytes: of
/// results, events and map values. Keys that only one of them has are theirs alone, and then neither are
/// other keys of that map compared which only `between` has. Returns what varied ("return value", "packet",
/// the name of a map, ...), with the number of words, values or entries. All three are of the same packets.
std::map<std::string, size_t> level_noise(const Pipeline &pipeline, const Trace &before, Trace &between,
                                          const Trace &after);

} // namespace ujit
