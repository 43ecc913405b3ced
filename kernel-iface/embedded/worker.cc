// The child writes one record into a pipe: a tag byte, then the result's bytes or a WorkerFault. The parent
// reads until the pipe closes, or all patience is spent, and believes a result only if it is whole.
#include "kernel-iface/embedded/worker.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <new>
#include <poll.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

namespace ujit {

namespace {

enum Tag : uint8_t { tag_result = 1, tag_fault = 2 };

int fault_pipe = -1; ///< in the child only: where its signal handler reports

constexpr int caught_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT};

bool write_all(int fd, const void *data, size_t size) {
  const char *at = static_cast<const char *>(data);
  while (size) {
    ssize_t n = write(fd, at, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    at += n;
    size -= size_t(n);
  }
  return true;
}

void report_fault(const WorkerFault &fault) {
  uint8_t record[1 + sizeof fault];
  record[0] = tag_fault;
  memcpy(record + 1, &fault, sizeof fault);
  write_all(fault_pipe, record, sizeof record);
}

void on_signal(int number, siginfo_t *info, void *context) {
  WorkerFault fault;
  fault.number = number;
  fault.address = reinterpret_cast<uint64_t>(info->si_addr);
  fault.pc = uint64_t(static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP]);
  report_fault(fault);
  _exit(1);
}

void catch_signals() {
  static uint8_t stack[1 << 16];
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
  sigfillset(&action.sa_mask);
  for (int number : caught_signals)
    sigaction(number, &action, nullptr);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_UNBLOCK, &all, nullptr);
}

/// Address space in use now: maps are reserved lazily, so a limit can only be counted from here.
uint64_t address_space() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * uint64_t(sysconf(_SC_PAGESIZE));
}

[[noreturn]] void run_child(int pipe, llvm::function_ref<std::vector<uint8_t>()> work,
                            const WorkerLimits &limits) {
  fault_pipe = pipe;
  catch_signals();
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(limits.time).count();
  itimerval timer = {{}, {us / 1'000'000, us % 1'000'000}};
  setitimer(ITIMER_PROF, &timer, nullptr); // ends with SIGPROF
  rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  if (limits.memory_bytes) {
    rlimit memory = {address_space() + limits.memory_bytes, RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &memory);
  }
  try {
    std::vector<uint8_t> result = work();
    uint8_t tag = tag_result;
    uint64_t size = result.size();
    bool ok = write_all(pipe, &tag, 1) && write_all(pipe, &size, sizeof size) &&
              write_all(pipe, result.data(), size);
    _exit(ok ? 0 : 1);
  } catch (const std::bad_alloc &) {
    WorkerFault fault;
    fault.kind = WorkerFault::no_memory;
    report_fault(fault);
    _exit(1);
  }
}

/// Reads until the pipe closes; false if the deadline passes first.
bool read_until(int fd, std::chrono::steady_clock::time_point deadline, std::vector<uint8_t> &out) {
  while (true) {
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd waiting = {fd, POLLIN, 0};
    int ready = poll(&waiting, 1, int(std::clamp<int64_t>(left.count(), 0, 1 << 30)));
    if (ready < 0 && errno == EINTR)
      continue;
    if (ready == 0)
      return false;
    uint8_t buffer[1 << 16];
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return true;
    out.insert(out.end(), buffer, buffer + n);
  }
}

WorkerFault ended(int status) {
  WorkerFault fault;
  fault.kind = !WIFSIGNALED(status)          ? WorkerFault::exited
               : WTERMSIG(status) == SIGPROF ? WorkerFault::timed_out
                                             : WorkerFault::signal;
  fault.number = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return fault;
}

} // namespace

std::string describe(const WorkerFault &fault) {
  switch (fault.kind) {
  case WorkerFault::timed_out: return "it did not end in time";
  case WorkerFault::no_memory: return "it ran out of memory";
  case WorkerFault::exited: return llvm::formatv("it ended with status {0}", fault.number);
  case WorkerFault::signal: break;
  }
  const char *name = sigabbrev_np(fault.number);
  std::string out =
      name ? llvm::formatv("SIG{0}", name).str() : llvm::formatv("signal {0}", fault.number).str();
  if (fault.pc)
    out += llvm::formatv(" at address {0:x} (pc {1:x})", fault.address, fault.pc);
  return out;
}

Expected<WorkerResult> run_in_worker(llvm::function_ref<std::vector<uint8_t>()> work, WorkerLimits limits) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return internal_error(llvm::formatv("no pipe for a worker: {0}", strerror(errno))).error();
  pid_t child = fork();
  if (child < 0) {
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    return internal_error(llvm::formatv("no process for a worker: {0}", strerror(error))).error();
  }
  if (child == 0) {
    close(ends[0]);
    run_child(ends[1], work, limits);
  }
  close(ends[1]);
  std::vector<uint8_t> record;
  bool in_time =
      read_until(ends[0], std::chrono::steady_clock::now() + WorkerLimits::patience * limits.time, record);
  close(ends[0]);
  if (!in_time)
    kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  if (!in_time)
    return WorkerFault{.kind = WorkerFault::timed_out};

  WorkerFault fault;
  if (record.size() == 1 + sizeof fault && record[0] == tag_fault) {
    memcpy(&fault, record.data() + 1, sizeof fault);
    return fault;
  }
  uint64_t size = 0;
  if (record.size() >= 9 && record[0] == tag_result)
    memcpy(&size, record.data() + 1, sizeof size);
  if (record.size() < 9 || record[0] != tag_result || size != record.size() - 9)
    return ended(status);
  record.erase(record.begin(), record.begin() + 9);
  return record;
}

} // namespace ujit
