// Any bytes are instructions or an error. What check_program() takes can be printed, and the assembler reads
// it back to the same instructions.
#include "translator/assembler.h"
#include "translator/isa.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  using namespace ujit;
  Expected<std::vector<Insn>> insns = decode_bytes({data, size});
  if (!insns) {
    llvm::consumeError(insns.takeError());
    return 0;
  }
  static constexpr uint32_t starts[] = {0};
  for (ImmediateRules rules : {ImmediateRules::kernel, ImmediateRules::standard})
    if (Error e = check_program(*insns, starts, rules)) {
      llvm::consumeError(std::move(e));
      return 0;
    }
  std::string text;
  for (uint32_t i = 0; i < insns->size(); i += is_wide((*insns)[i]) ? 2 : 1)
    text += print_insn(*insns, i) + "\n";
  Expected<Assembly> again = assemble(text);
  if (!again || again->insns != *insns)
    std::abort();
  return 0;
}
