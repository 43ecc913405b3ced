#include "kernel-iface/embedded/pcap.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <pcap/pcap.h>
#include <unistd.h>

namespace ujit {

namespace {

struct ClosePcap {
  void operator()(pcap_t *p) const { pcap_close(p); }
};
using Pcap = std::unique_ptr<pcap_t, ClosePcap>;

constexpr uint64_t ns_per_second = 1'000'000'000;
constexpr int longest_packet = 262144; // libpcap's own limit

} // namespace

Expected<std::vector<CapturedPacket>> read_pcap(const std::string &path) {
  FILE *file = fopen(path.c_str(), "rb");
  if (!file)
    return input_error(llvm::formatv("cannot be opened: {0}", strerror(errno))).in_file(path).error();
  char why[PCAP_ERRBUF_SIZE] = {};
  Pcap pcap(pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, why));
  if (!pcap) {
    fclose(file);
    return input_error(llvm::formatv("not a capture file: {0}", why)).in_file(path).error();
  }
  int link = pcap_datalink(pcap.get());
  if (link != DLT_EN10MB) {
    const char *name = pcap_datalink_val_to_name(link);
    return unsupported(llvm::formatv("link type {0} (#{1}) is not supported, only Ethernet",
                                     name ? name : "unknown", link))
        .in_file(path)
        .error();
  }
  std::vector<CapturedPacket> out;
  pcap_pkthdr *header;
  const u_char *data;
  int got;
  while ((got = pcap_next_ex(pcap.get(), &header, &data)) == 1)
    out.push_back({uint64_t(header->ts.tv_sec) * ns_per_second + uint64_t(header->ts.tv_usec),
                   {data, data + header->caplen},
                   header->len});
  if (got == PCAP_ERROR)
    return input_error(llvm::formatv("packet {0}: {1}", out.size() + 1, pcap_geterr(pcap.get())))
        .in_file(path)
        .error();
  return out;
}

Error write_pcap(const std::string &path, std::span<const CapturedPacket> packets) {
  std::string part = path + ".part";
  auto refuse = [&](std::string why) {
    unlink(part.c_str());
    return input_error("cannot be written: " + why).in_file(path).error();
  };
  Pcap pcap(pcap_open_dead_with_tstamp_precision(DLT_EN10MB, longest_packet, PCAP_TSTAMP_PRECISION_NANO));
  pcap_dumper_t *dump = pcap_dump_open(pcap.get(), part.c_str());
  if (!dump)
    return refuse(pcap_geterr(pcap.get()));
  for (const CapturedPacket &packet : packets) {
    pcap_pkthdr header = {};
    header.ts.tv_sec = time_t(packet.time_ns / ns_per_second);
    header.ts.tv_usec = suseconds_t(packet.time_ns % ns_per_second);
    header.caplen = bpf_u_int32(packet.bytes.size());
    header.len = std::max(packet.wire_size, header.caplen);
    pcap_dump(reinterpret_cast<u_char *>(dump), &header, packet.bytes.data());
  }
  bool failed = pcap_dump_flush(dump) != 0 || ferror(pcap_dump_file(dump));
  std::string why = strerror(errno);
  pcap_dump_close(dump);
  if (failed)
    return refuse(why);
  if (rename(part.c_str(), path.c_str()) != 0)
    return refuse(strerror(errno));
  return Error::success();
}

} // namespace ujit
