// ujit-bench-traffic FOLDER: for each pipeline of the benchmark its packets, of 64 and of 4,096 flows
// (NAME-64.pcap, NAME-4096.pcap), and the map contents that they meet (NAME.maps.json). The same everywhere:
// the standard's random engines are portable, its distributions are not, so they are not used.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <pcap/pcap.h>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using Bytes = std::vector<uint8_t>;

class Random {
public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint32_t below(uint32_t bound) { return uint32_t(engine_() % bound); }
  bool percent(uint32_t chance) { return below(100) < chance; }

private:
  std::mt19937_64 engine_;
};

// ---- Bytes. Numbers go in network order, or with `raw` in the machine's, as maps hold them.

class Builder {
public:
  Builder &u8(uint32_t v) { return bytes.push_back(uint8_t(v)), *this; }
  Builder &be16(uint32_t v) { return u8(v >> 8).u8(v); }
  Builder &be32(uint32_t v) { return be16(v >> 16).be16(v); }
  template <class T>
  Builder &raw(T v) {
    const auto *p = reinterpret_cast<const uint8_t *>(&v);
    bytes.insert(bytes.end(), p, p + sizeof v);
    return *this;
  }
  Builder &add(std::span<const uint8_t> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return *this;
  }
  Builder &zero(size_t count) { return bytes.resize(bytes.size() + count), *this; }
  operator Bytes() const { return bytes; }
  Bytes bytes;
};

uint16_t checksum(std::span<const uint8_t> bytes, uint32_t sum = 0) {
  for (size_t i = 0; i < bytes.size(); ++i)
    sum += i % 2 ? bytes[i] : uint32_t(bytes[i]) << 8;
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return uint16_t(~sum);
}

// ---- Packets, from the inside out.

enum : uint16_t { type_ipv4 = 0x0800, type_ipv6 = 0x86dd, type_vlan = 0x8100, type_qinq = 0x88a8 };
enum : uint8_t { proto_ipip = 4, proto_tcp = 6, proto_udp = 17, proto_gre = 47 };

struct Flow {
  uint32_t source = 0, destination = 0;
  uint16_t sport = 0, dport = 0;
  uint8_t proto = proto_tcp;
};

void put_checksum(Bytes &segment, size_t at, const Flow &flow) {
  const Bytes pseudo =
      Builder().be32(flow.source).be32(flow.destination).be16(flow.proto).be16(uint32_t(segment.size()));
  const uint32_t sum = uint16_t(~checksum(pseudo));
  const uint16_t value = checksum(segment, sum);
  segment[at] = uint8_t(value >> 8);
  segment[at + 1] = uint8_t(value);
}

Bytes tcp(const Flow &flow, uint8_t flags, std::span<const uint8_t> options,
          std::span<const uint8_t> payload) {
  Bytes out = Builder()
                  .be16(flow.sport)
                  .be16(flow.dport)
                  .be32(flow.sport * 2654435761u)
                  .be32(1)
                  .u8(uint32_t(5 + options.size() / 4) << 4)
                  .u8(flags)
                  .be16(64240)
                  .be32(0)
                  .add(options)
                  .add(payload);
  put_checksum(out, 16, flow);
  return out;
}

Bytes udp(const Flow &flow, std::span<const uint8_t> payload) {
  Bytes out =
      Builder().be16(flow.sport).be16(flow.dport).be16(uint32_t(8 + payload.size())).be16(0).add(payload);
  put_checksum(out, 6, flow);
  return out;
}

Bytes ipv4(const Flow &flow, uint8_t proto, std::span<const uint8_t> payload, uint8_t ttl = 64,
           uint8_t tos = 0, size_t options = 0, uint16_t fragment = 0) {
  Bytes header = Builder()
                     .u8(uint32_t(0x45 + options / 4))
                     .u8(tos)
                     .be16(uint32_t(20 + options + payload.size()))
                     .be16(flow.sport)
                     .be16(fragment)
                     .u8(ttl)
                     .u8(proto)
                     .be16(0)
                     .be32(flow.source)
                     .be32(flow.destination);
  header.resize(header.size() + options, 1);
  const uint16_t sum = checksum(header);
  header[10] = uint8_t(sum >> 8);
  header[11] = uint8_t(sum);
  return Builder().add(header).add(payload);
}

Bytes ipv6(const Flow &flow, uint8_t next, std::span<const uint8_t> payload) {
  auto address = [](uint32_t v) { return Builder().be32(0x20010db8).be32(0).be32(v >> 16).be32(v).bytes; };
  return Builder()
      .be32(0x60012345)
      .be16(uint32_t(payload.size()))
      .u8(next)
      .u8(64)
      .add(address(flow.source))
      .add(address(flow.destination))
      .add(payload);
}

Bytes frame(uint16_t type, std::span<const uint8_t> packet, std::span<const uint16_t> tags = {}) {
  Builder out;
  out.add(std::array<uint8_t, 12>{2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 7});
  for (size_t i = 0; i < tags.size(); ++i)
    out.be16(i + 1 < tags.size() ? type_qinq : type_vlan).be16(tags[i]);
  return out.be16(type).add(packet);
}

// ---- Map contents.

class Seeds {
public:
  void add(const std::string &map, const Bytes &key, const Bytes &value) { maps_[map][key] = value; }
  void write(const std::string &file) const {
    std::ofstream out(file);
    out << "{ \"maps\": [";
    const char *between = "\n";
    for (const auto &[name, entries] : maps_) {
      out << between << "  { \"name\": \"" << name << "\", \"entries\": [";
      between = ",\n";
      const char *comma = "\n";
      for (const auto &[key, value] : entries) {
        out << comma << "    { \"key\": \"" << hex(key) << "\", \"value\": \"" << hex(value) << "\" }";
        comma = ",\n";
      }
      out << " ] }";
    }
    out << " ] }\n";
  }

private:
  static std::string hex(const Bytes &bytes) {
    std::string out;
    for (uint8_t b : bytes) {
      out += "0123456789abcdef"[b >> 4];
      out += "0123456789abcdef"[b & 15];
    }
    return out;
  }
  std::map<std::string, std::map<Bytes, Bytes>> maps_;
};

// ---- What each pipeline gets.

Bytes network_order(uint32_t address) { return Builder().be32(address); }

class Workload {
public:
  Workload() : random_(1) {}
  virtual ~Workload() = default;
  void make_flows(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i)
      flows_.push_back(flow(i));
  }
  /// What maps hold for all flows.
  virtual void seed(Seeds &) {}
  virtual Bytes packet() = 0;

protected:
  virtual Flow flow(uint32_t i) {
    Flow f;
    f.source = 0x0a010000 + random_.below(1 << 16);
    f.destination = 0xc0a80000 + i;
    f.sport = uint16_t(1024 + random_.below(60000));
    f.dport = uint16_t(random_.percent(60) ? 443 : random_.percent(50) ? 80 : 1 + random_.below(9000));
    f.proto = random_.percent(75) ? proto_tcp : proto_udp;
    return f;
  }
  const Flow &any() { return flows_[random_.below(uint32_t(flows_.size()))]; }
  Bytes payload(uint32_t most = 64) { return Bytes(random_.below(most), 0x55); }
  Bytes segment(const Flow &f) {
    const uint8_t flags = random_.percent(3) ? 2 : random_.percent(3) ? 17 : 16;
    return f.proto == proto_tcp ? tcp(f, flags, {}, payload()) : udp(f, payload());
  }

  Random random_;
  std::vector<Flow> flows_;
};

class Balancer final : public Workload {
public:
  void seed(Seeds &seeds) override {
    seeds.add("clock", Builder().raw<uint32_t>(0), Builder().raw<uint64_t>(1'700'000'000));
    for (const Flow &f : flows_) {
      const uint32_t net = f.source & 0xffffff00;
      seeds.add("rules", Builder().be32(net).be16(f.dport).u8(f.proto).u8(0),
                Builder().raw<uint32_t>(net % 61 != 0).raw<uint32_t>(net >> 8).raw<uint64_t>(0));
      if (f.sport % 31 == 0)
        continue; // unknown connections
      const Bytes key =
          Builder().be32(f.source).be32(f.destination).be16(f.sport).be16(f.dport).u8(f.proto).zero(3);
      const Bytes value = Builder()
                              .zero(24)
                              .be32(0x0a640000 + f.sport % 200)
                              .be16(8080)
                              .raw<uint16_t>(3)
                              .be16(0x0200)
                              .be32(f.sport % 200)
                              .u8(f.sport % 2)
                              .u8(0);
      seeds.add("connections", key, value);
    }
  }
  Bytes packet() override {
    const Flow &f = any();
    const uint16_t tag[] = {100};
    const Bytes ip = ipv4(f, f.proto, segment(f), random_.percent(1) ? 1 : 64);
    return random_.percent(20) ? frame(type_ipv4, ip, tag) : frame(type_ipv4, ip);
  }
};

class Parser final : public Workload {
public:
  Bytes packet() override {
    Flow f = any();
    f.proto = proto_tcp;
    const Bytes options = random_.percent(30)
                              ? Bytes{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}
                              : Bytes{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8};
    std::string text =
        random_.percent(50) ? "GET /item/" + std::to_string(f.sport) + "?q=1 HTTP/1.1" : "\x17\x03\x03";
    const Bytes body(text.begin(), text.end());
    const Bytes ip =
        ipv4(f, proto_tcp, tcp(f, options.size() == 20 ? 2 : 24, options, body),
             random_.percent(10) ? 20 : 64, uint8_t(random_.below(64) << 2), random_.percent(5) ? 4 : 0);
    const std::array<uint16_t, 2> tags = {7, 100};
    const size_t depth = random_.percent(30) ? 1 + random_.below(2) : 0;
    return frame(type_ipv4, ip, std::span(tags).first(depth));
  }
};

class Alu final : public Workload {
public:
  void seed(Seeds &seeds) override {
    seeds.add("buckets", Builder().raw<uint32_t>(0),
              Builder()
                  .raw<uint64_t>(977)
                  .raw<uint64_t>(1 << 30)
                  .raw<uint64_t>(1 << 20)
                  .raw<uint64_t>(0)
                  .raw<uint32_t>(61)
                  .raw<uint32_t>(13)
                  .zero(24));
  }
  Bytes packet() override {
    const Flow &f = any();
    return frame(type_ipv4, ipv4(f, f.proto, Builder().add(segment(f)).zero(16).bytes));
  }
};

class Dissector final : public Workload {
public:
  Bytes packet() override {
    const Flow &f = any();
    const std::array<uint16_t, 2> tags = {7, 100};
    const size_t depth = random_.percent(15) ? 1 + random_.below(2) : 0;
    const uint32_t kind = random_.below(100);
    const Bytes inside = segment(f);
    if (kind < 25) {
      Bytes packet = inside;
      uint8_t next = f.proto;
      if (kind < 5) // hop-by-hop options
        packet = Builder().u8(f.proto).u8(0).zero(6).add(inside), next = 0;
      else if (kind < 8) // a fragment
        packet = Builder().u8(f.proto).u8(0).be16(kind == 5 ? 1 : 0x10 | 1).be32(f.sport).add(inside),
        next = 44;
      return frame(type_ipv6, ipv6(f, next, packet), std::span(tags).first(depth));
    }
    if (kind < 40) {
      Flow outer{0x0a000001 + kind, 0x0a000002, 0, 0, proto_gre};
      const Bytes in = ipv4(f, f.proto, inside);
      const Bytes gre = kind < 33 ? Builder().be16(0x2000).be16(type_ipv4).be32(f.sport).add(in)
                                  : Builder().be16(0).be16(type_ipv4).add(in);
      return frame(type_ipv4, ipv4(outer, kind < 37 ? proto_gre : proto_ipip, kind < 37 ? gre : in),
                   std::span(tags).first(depth));
    }
    const uint16_t fragment = kind < 43 ? (kind == 40 ? 0x2000 : 0x0010) : 0;
    return frame(type_ipv4, ipv4(f, f.proto, inside, 64, 0, kind == 99 ? 8 : 0, fragment),
                 std::span(tags).first(depth));
  }
};

class Policy final : public Workload {
public:
  void seed(Seeds &seeds) override {
    for (const Flow &f : flows_) {
      const uint32_t id = 1 + f.destination % 10; // of the last one there is no policy
      seeds.add("endpoints", network_order(f.destination),
                Builder().raw<uint32_t>(id).raw<uint32_t>(100 + id).be16(0x0200).be32(id).raw<uint16_t>(0));
      if (f.source >> 8 & 7)
        seeds.add("identities", network_order(f.source & 0xffffff00),
                  Builder().raw<uint32_t>(f.source >> 8 & 0xff).raw<uint32_t>(1 + (f.source >> 11) % 3));
    }
    for (uint32_t id = 0; id < 32; ++id)
      seeds.add("port_rules", Builder().raw(id),
                Builder().raw<uint16_t>(80).raw<uint16_t>(id % 2 ? 8080 : 443).raw<uint32_t>(0));
  }
  Bytes packet() override {
    const Flow &f = any();
    return frame(type_ipv4, ipv4(f, f.proto, segment(f)));
  }

private:
  Flow flow(uint32_t i) override {
    Flow f = Workload::flow(i);
    f.destination = 0x0a020000 + i % 960; // endpoints
    return f;
  }
};

class Recirculate final : public Workload {
public:
  void seed(Seeds &seeds) override {
    for (const Flow &f : flows_)
      if (f.sport % 29)
        seeds.add("neighbours", network_order(f.destination),
                  Builder().be16(0x0200).be32(f.sport).raw<uint16_t>(uint16_t(2 + f.sport % 4)));
  }
  Bytes packet() override {
    const Flow &f = any();
    Bytes ip = ipv4(f, f.proto, segment(f));
    for (uint32_t n = random_.below(4); n > 0; --n)
      ip = ipv4({0x0a000001 + n, 0x0a000002, 0, 0, proto_ipip}, proto_ipip, ip);
    Bytes out = Builder().be16(type_ipv4).add(ip);
    for (uint32_t n = random_.below(3); n > 0; --n)
      out = Builder().be16(type_vlan).be16(n * 10).add(out);
    return Builder().add(std::array<uint8_t, 12>{2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 7}).add(out);
  }
};

/// For single programs: what they look at is in a map, the packet only calls them.
template <bool with_buffer, bool with_machine>
class Single final : public Workload {
public:
  void seed(Seeds &seeds) override {
    static constexpr std::string_view words[] = {"packet ",    "42 ",   "\"quoted \\\" text\" ",
                                                 "tail_call ", "3.14 ", "program, "};
    Bytes text;
    while (text.size() < 4096) {
      const std::string_view w = words[random_.below(std::size(words))];
      text.insert(text.end(), w.begin(), w.end());
    }
    text.resize(4096);
    const Bytes zero_key = Builder().raw<uint32_t>(0);
    if (with_buffer)
      seeds.add("buffer", zero_key, text);
    if (with_machine)
      seeds.add("machine", zero_key, machine());
  }
  Bytes packet() override { return frame(type_ipv4, Bytes(50)); }

private:
  /// Classes: other, letter, digit, quote, backslash, underscore, dot. States: between, word, number, quoted,
  /// escaped.
  static Bytes machine() {
    enum { other, letter, digit, quote, backslash, underscore, dot, classes = 8 };
    enum { between, word, number, quoted, escaped };
    Bytes class_of(256), next(64);
    std::array<uint32_t, 64> counts{};
    for (uint32_t c = 0; c < 256; ++c)
      class_of[c] = uint8_t((c | 32) >= 'a' && (c | 32) <= 'z' ? letter
                            : c >= '0' && c <= '9'             ? digit
                            : c == '"'                         ? quote
                            : c == '\\'                        ? backslash
                            : c == '_'                         ? underscore
                            : c == '.'                         ? dot
                                                               : other);
    for (uint32_t c = 0; c < classes; ++c) {
      next[between * 8 + c] = c == quote ? quoted : c == digit ? number : c == letter ? word : between;
      next[word * 8 + c] = c == letter || c == underscore ? word : between;
      next[number * 8 + c] = c == digit || c == dot ? number : between;
      next[quoted * 8 + c] = c == backslash ? escaped : c == quote ? between : quoted;
      next[escaped * 8 + c] = quoted;
    }
    counts[between * 8 + letter] = 1;
    counts[between * 8 + digit] = 1 << 10;
    counts[quoted * 8 + quote] = 1 << 20;
    Builder out;
    out.add(class_of).add(next);
    for (uint32_t n : counts)
      out.raw(n);
    return out;
  }
};

bool write_pcap(const std::string &file, Workload &workload, size_t count) {
  pcap_t *format = pcap_open_dead(DLT_EN10MB, 65535);
  pcap_dumper_t *out = pcap_dump_open(format, file.c_str());
  if (!out) {
    std::cerr << pcap_geterr(format) << '\n';
    return false;
  }
  for (size_t i = 0; i < count; ++i) {
    const Bytes bytes = workload.packet();
    pcap_pkthdr header{};
    header.ts.tv_usec = suseconds_t(i % 1000000);
    header.caplen = header.len = uint32_t(bytes.size());
    pcap_dump(reinterpret_cast<u_char *>(out), &header, bytes.data());
  }
  pcap_dump_close(out);
  pcap_close(format);
  return true;
}

template <class W>
bool write(const std::string &folder, const std::string &name,
           std::vector<std::pair<uint32_t, size_t>> sizes) {
  Seeds seeds;
  for (const auto &[flows, packets] : sizes) {
    W workload;
    workload.make_flows(flows);
    workload.seed(seeds);
    if (!write_pcap(folder + "/" + name + "-" + std::to_string(flows) + ".pcap", workload, packets))
      return false;
  }
  seeds.write(folder + "/" + name + ".maps.json");
  return true;
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::cerr << "usage: ujit-bench-traffic FOLDER\n";
    return 64;
  }
  const std::string folder = argv[1];
  const std::vector<std::pair<uint32_t, size_t>> both = {{64, 1024}, {4096, 8192}}, one = {{1, 2}};
  const bool ok = write<Balancer>(folder, "balancer", both) && write<Parser>(folder, "parser", both) &&
                  write<Alu>(folder, "alu", both) && write<Dissector>(folder, "dissector", both) &&
                  write<Policy>(folder, "policy", both) && write<Recirculate>(folder, "recirculate", both) &&
                  write<Single<true, false>>(folder, "checksum", one) &&
                  write<Single<true, false>>(folder, "hash", one) &&
                  write<Single<true, true>>(folder, "states", one) &&
                  write<Single<false, false>>(folder, "primes", one);
  return ok ? 0 : 1;
}
