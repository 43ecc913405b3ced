// Bob Jenkins' lookup3, as the kernel's hash tables use it (include/linux/jhash.h).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace ujit {

inline void jhash_mix(uint32_t &a, uint32_t &b, uint32_t &c) {
  a -= c;
  a ^= std::rotl(c, 4);
  c += b;
  b -= a;
  b ^= std::rotl(a, 6);
  a += c;
  c -= b;
  c ^= std::rotl(b, 8);
  b += a;
  a -= c;
  a ^= std::rotl(c, 16);
  c += b;
  b -= a;
  b ^= std::rotl(a, 19);
  a += c;
  c -= b;
  c ^= std::rotl(b, 4);
  b += a;
}

inline void jhash_final(uint32_t &a, uint32_t &b, uint32_t &c) {
  c ^= b;
  c -= std::rotl(b, 14);
  a ^= c;
  a -= std::rotl(c, 11);
  b ^= a;
  b -= std::rotl(a, 25);
  c ^= b;
  c -= std::rotl(b, 16);
  a ^= c;
  a -= std::rotl(c, 4);
  b ^= a;
  b -= std::rotl(a, 14);
  c ^= b;
  c -= std::rotl(b, 24);
}

inline uint32_t jhash_word(const uint8_t *at) {
  uint32_t w;
  memcpy(&w, at, 4);
  return w;
}

/// Hash of `length` bytes at any alignment. A constant length leaves straight-line code.
inline uint32_t jhash(const void *key, uint32_t length, uint32_t seed) {
  const uint8_t *k = static_cast<const uint8_t *>(key);
  uint32_t a = 0xdeadbeef + length + seed, b = a, c = a;
  while (length > 12) {
    a += jhash_word(k);
    b += jhash_word(k + 4);
    c += jhash_word(k + 8);
    jhash_mix(a, b, c);
    length -= 12;
    k += 12;
  }
  if (length == 0)
    return c;
  uint8_t tail[12] = {};
  memcpy(tail, k, length);
  a += jhash_word(tail);
  b += jhash_word(tail + 4);
  c += jhash_word(tail + 8);
  jhash_final(a, b, c);
  return c;
}

} // namespace ujit
