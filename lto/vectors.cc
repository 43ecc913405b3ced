// Vector registers are for loops. A process has them anyway; a kernel has not, so kernel images never come
// here, and their target has no such registers at all. Functions say `noimplicitfloat` until one of their
// loops has become vector code, so that code without loops is the same with and without.
//
// What makes a loop of a program vectorise: lookups in arrays are addresses that do not change, loads of
// packets and of elements at variable places are plain with `freeze` (docs/memory-model.md), and stores to
// other domains do not alias, so that mostly nothing is left to be compared at run time. A vector load reads
// each element once.
#include "lto/passes.h"

#include "llvm/IR/InstIterator.h"
#include "llvm/Transforms/Vectorize/LoopVectorize.h"

namespace ujit {

using namespace llvm;

static bool has_vectors(Function &f) {
  return any_of(instructions(f), [](const Instruction &i) {
    return i.getType()->isVectorTy() ||
           any_of(i.operand_values(), [](const Value *v) { return v->getType()->isVectorTy(); });
  });
}

bool vectorise_loops(Function &f, FunctionAnalysisManager &analyses) {
  f.removeFnAttr(Attribute::NoImplicitFloat);
  analyses.invalidate(f, LoopVectorizePass().run(f, analyses));
  const bool vectors = has_vectors(f);
  if (!vectors)
    f.addFnAttr(Attribute::NoImplicitFloat);
  return vectors;
}

} // namespace ujit
