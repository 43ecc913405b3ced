#include "lto/machine_code.h"

#include "llvm/MC/MCAsmInfo.h"
#include "llvm/MC/MCContext.h"
#include "llvm/MC/MCDisassembler/MCDisassembler.h"
#include "llvm/MC/MCInst.h"
#include "llvm/MC/MCInstrAnalysis.h"
#include "llvm/MC/MCInstrInfo.h"
#include "llvm/MC/MCRegisterInfo.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/MCTargetOptions.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/TargetParser/Triple.h"

namespace ujit {

/// Everything that a decoder needs alive.
struct MachineDecoder::Parts {
  std::unique_ptr<llvm::MCRegisterInfo> registers;
  std::unique_ptr<llvm::MCAsmInfo> asm_info;
  std::unique_ptr<llvm::MCInstrInfo> instructions;
  std::unique_ptr<llvm::MCSubtargetInfo> subtarget;
  std::unique_ptr<llvm::MCContext> context;
  std::unique_ptr<llvm::MCDisassembler> disassembler;
  std::unique_ptr<llvm::MCInstrAnalysis> analysis;

  /// Whether the memory operand, if there is one, is the machine stack or the image itself.
  bool own_memory(const llvm::MCInst &inst, const llvm::MCInstrDesc &desc) const {
    for (unsigned i = 0; i < desc.getNumOperands() && i < inst.getNumOperands(); ++i)
      if (desc.operands()[i].OperandType == llvm::MCOI::OPERAND_MEMORY) {
        if (!inst.getOperand(i).isReg()) // an absolute address
          return false;
        llvm::StringRef base =
            registers->getName(inst.getOperand(i).getReg()); // operands: base, scale, index, ...
        return base == "RSP" || base == "RBP" || base == "RIP";
      }
    return true; // push, pop, ret
  }

  bool uses_vectors(const llvm::MCInst &inst) const {
    return llvm::any_of(inst, [&](const llvm::MCOperand &o) {
      llvm::StringRef name = o.isReg() && o.getReg() ? registers->getName(o.getReg()) : "";
      return name.size() > 1 && (name[1] == 'M' || name.starts_with("ST") || name.starts_with("K"));
    });
  }
};

MachineDecoder::MachineDecoder() : parts_(std::make_unique<Parts>()) {
  static const bool registered = [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86Disassembler();
    return true;
  }();
  (void)registered;
  Parts &p = *parts_;
  llvm::Triple triple("x86_64-unknown-linux-gnu");
  std::string error;
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple.str(), error);
  p.registers.reset(target->createMCRegInfo(triple.str()));
  p.asm_info.reset(target->createMCAsmInfo(*p.registers, triple.str(), {}));
  p.instructions.reset(target->createMCInstrInfo());
  // The decoder knows the instructions of all CPUs, whatever this says.
  p.subtarget.reset(target->createMCSubtargetInfo(triple.str(), "x86-64", ""));
  p.context =
      std::make_unique<llvm::MCContext>(triple, p.asm_info.get(), p.registers.get(), p.subtarget.get());
  p.disassembler.reset(target->createMCDisassembler(*p.subtarget, *p.context));
  p.analysis.reset(target->createMCInstrAnalysis(p.instructions.get()));
}

MachineDecoder::~MachineDecoder() = default;

std::optional<MachineStep> MachineDecoder::decode(llvm::ArrayRef<uint8_t> bytes, uint64_t address) const {
  llvm::MCInst inst;
  MachineStep step;
  if (parts_->disassembler->getInstruction(inst, step.size, bytes, address, llvm::nulls()) !=
      llvm::MCDisassembler::Success)
    return std::nullopt;
  const llvm::MCInstrDesc &desc = parts_->instructions->get(inst.getOpcode());
  step.call = parts_->analysis->isCall(inst);
  step.branch = parts_->analysis->isBranch(inst);
  step.ends = desc.isBarrier() || desc.isReturn();
  step.reads = desc.mayLoad();
  step.own_memory = parts_->own_memory(inst, desc);
  step.vectors = parts_->uses_vectors(inst);
  if (uint64_t target;
      (step.call || step.branch) && parts_->analysis->evaluateBranch(inst, address, step.size, target))
    step.target = target;
  return step;
}

} // namespace ujit
