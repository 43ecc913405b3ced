// Lookups in hash tables. The key goes to the lookup by value, in words of 8 bytes, so
// that a key which is only put together to be looked up never is in memory. The call is one of the function
// @ujit.lookup.N, whose effects are those of the helper; it becomes code only once the optimiser is through
// with memory (lto/lookup.cc).
#include "translator/hash_layout.h"
#include "translator/instance.h"
#include "translator/lowering.h"

#include "llvm/Support/ModRef.h"

namespace ujit {

using namespace llvm;

bool Lowering::has_inline_table(uint32_t map) const {
  const Map &m = p_.pipeline.maps[map];
  return p_.options.inline_hash_lookups && is_hash_table(m) && !m.is_template &&
         m.key_size <= longest_inline_key;
}

/// Bytes `at` to `at` + `size` of the key, zero-extended. `size`: 1 to 8.
Value *Lowering::key_word(const Access &key, uint32_t at, uint32_t size) {
  Value *word = nullptr;
  for (uint32_t done = 0; done < size;) {
    uint32_t n = 8;
    while (n > size - done)
      n /= 2;
    Access part = key;
    part.address = builder_.CreateConstGEP1_64(builder_.getInt8Ty(), key.address, at + done);
    Value *v = builder_.CreateZExt(load(part, int_of(n * 8)), i64());
    v = builder_.CreateShl(v, done * 8);
    word = word ? builder_.CreateOr(word, v) : v;
    done += n;
  }
  return word;
}

void Lowering::lower_table_lookup(uint32_t map) {
  const Map &m = p_.pipeline.maps[map];
  const Provenance &from = state_.regs[2];
  Access key;
  key.address = as_ptr(2);
  key.tag = p_.domain_tag(p_.domain_of(from), from.id);
  key.one_value = from.kind != Provenance::stack || may_be_unset(from, 0);
  std::vector<Type *> types{builder_.getPtrTy()};
  std::vector<Value *> args{instance_};
  for (uint32_t at = 0; at < m.key_size; at += 8) {
    types.push_back(i64());
    args.push_back(key_word(key, at, std::min(8u, m.key_size - at)));
  }
  FunctionCallee f = p_.module.getOrInsertFunction(lookup_prefix + std::to_string(map),
                                                   FunctionType::get(builder_.getPtrTy(), types, false));
  cast<Function>(f.getCallee())->setCallingConv(CallingConv::Fast);
  CallInst *call = builder_.CreateCall(f, args);
  call->setCallingConv(CallingConv::Fast);
  call->addFnAttr(Attribute::NoUnwind);
  if (p_.options.helper_effects) {
    call->addFnAttr(Attribute::WillReturn);
    call->setMemoryEffects(MemoryEffects::inaccessibleMemOnly());
  }
  clobber_call(call);
}

} // namespace ujit
