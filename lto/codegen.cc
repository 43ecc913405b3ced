#include "lto/codegen.h"

#include "translator/error.h"

#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

using namespace llvm;

constexpr size_t longest_block = 2000; ///< IR instructions

static void split_long_blocks(Function &f) {
  SmallVector<BasicBlock *> work;
  for (BasicBlock &b : f)
    if (b.size() > longest_block)
      work.push_back(&b);
  for (BasicBlock *b : work)
    while (b->size() > longest_block) {
      auto at = std::next(b->begin(), longest_block);
      while (at != b->end() && (isa<PHINode>(at) || at->isTerminator()))
        ++at;
      // A musttail call stays together with its return.
      if (at == b->end() || std::distance(at, b->end()) < 4)
        break;
      b = b->splitBasicBlock(at);
    }
}

Expected<std::vector<uint8_t>> generate_code(Module &module, TargetMachine &tm) {
  for (Function &f : module)
    split_long_blocks(f);
  SmallVector<char, 0> bytes;
  raw_svector_ostream os(bytes);
  legacy::PassManager pm;
  TargetLibraryInfoImpl none(tm.getTargetTriple());
  none.disableAllFunctions();
  pm.add(new TargetLibraryInfoWrapperPass(none));
  if (tm.addPassesToEmitFile(pm, os, nullptr, CodeGenFileType::ObjectFile, true))
    return internal_error("no object file output for " + tm.getTargetTriple().str()).error();
  pm.run(module);
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

} // namespace ujit
