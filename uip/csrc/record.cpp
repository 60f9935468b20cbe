// Reads the record that uip/program/writer.py adds to model files: a dictionary of plain values and tensors, as
// torch.save writes it, at "extra/uip" of the zip archive, for each kind of program. "extra/uip_sha256" is the
// checksum of the rest of the archive: torch does not verify those of the archive itself.
#include <torch/serialize.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "archive_check.h"
#include "hash.h"
#include "program.h"
#include "schema.h"

namespace uip {
namespace {

constexpr const char *record_name = "extra/uip";
constexpr const char *checksum_name = "extra/uip_sha256";
constexpr int64_t last_element = 118;
constexpr const char *signature_name = "extra/uip_signature";  // see trust.h

using Dictionary = c10::Dict<c10::IValue, c10::IValue>;

// Names and contents of all entries, in the order of names, must have the checksum that the export wrote, and a
// signature if the user asks for one.
void check_content(Archive &archive, const Trust &trust) {
  std::vector<std::string> names = archive.getAllRecords();
  std::sort(names.begin(), names.end());
  std::vector<std::pair<std::string, size_t>> sizes;
  Sha256 hash;
  for (const std::string &name : names) {
    if (name == checksum_name || name == signature_name) continue;
    hash.add(name);
    sizes.emplace_back(name, for_pieces(archive, name, [&](std::string_view piece) { hash.add(piece); }));
  }
  const std::string checksum = hash.digits();
  if (checksum != content(archive, checksum_name)) throw damaged();
  const std::string signature = archive.hasRecord(signature_name) ? content(archive, signature_name) : "";
  trust.check(signature, signed_message(checksum, sizes));
}

c10::IValue entry(const Dictionary &dictionary, const std::string &name) {
  if (!dictionary.contains(name)) {
    throw std::runtime_error("its record has no entry '" + name + "'; run 'uip export' again");
  }
  return dictionary.at(name);
}

std::vector<int64_t> integers(const c10::IValue &list) {
  std::vector<int64_t> values;
  for (const c10::IValue &value : list.toListRef()) values.push_back(value.toInt());
  return values;
}

std::vector<std::string> strings(const c10::IValue &list) {
  std::vector<std::string> values;
  for (const c10::IValue &value : list.toListRef()) values.push_back(value.toStringRef());
  return values;
}

Tensors tensors(const c10::IValue &dictionary) {
  Tensors values;
  for (const auto &entry : dictionary.toGenericDict()) values[entry.key().toStringRef()] = entry.value().toTensor();
  return values;
}

// Older files call it "arithmetic", or have none: then products are in the dtype.
std::string precision(const Dictionary &record, const std::string &dtype) {
  for (const char *name : {"precision", "arithmetic"}) {
    if (record.contains(name)) return record.at(name).toStringRef();
  }
  return dtype;
}

// Absent from files that are older than such models, empty for models without soft nearest neighbours.
std::optional<SoftNearest> soft_nearest(const Dictionary &record) {
  if (!record.contains("soft")) return std::nullopt;
  const auto soft = record.at("soft").toGenericDict();
  if (soft.empty()) return std::nullopt;
  const auto real = [&](const char *name) { return soft.at(name).toScalar().toDouble(); };
  return SoftNearest{real("k"), soft.at("nearest").toInt(), real("cutoff"), real("sigma"), real("tau")};
}

bool is_element(int64_t number) { return number >= 1 && number <= last_element; }

// A checksum that belongs to the record does not make its values possible.
void check_values(const Metadata &data) {
  const auto require = [](bool possible, const char *name) {
    if (possible) return;
    throw std::runtime_error("its record has an impossible value of '" + std::string(name) +
                             "'; run 'uip export' again");
  };
  require(data.schema_version >= 1, "schema_version");
  require(std::isfinite(data.cutoff) && data.cutoff > 0, "cutoff");
  require(data.bond_cutoff >= 0 && data.bond_cutoff <= data.cutoff, "bond_cutoff");  // false of NaN
  require(!data.elements.empty() && std::all_of(data.elements.begin(), data.elements.end(), is_element), "elements");
}

Metadata metadata(const Dictionary &record) {
  Metadata data;
  data.schema_version = entry(record, "schema_version").toInt();
  data.model = entry(record, "model").toStringRef();
  data.name = entry(record, "name").toStringRef();
  data.torch_version = entry(record, "torch_version").toStringRef();
  data.dtype = entry(record, "dtype").toStringRef();
  data.precision = precision(record, data.dtype);
  data.device = entry(record, "device").toStringRef();
  data.cutoff = entry(record, "cutoff").toDouble();
  data.bond_cutoff = entry(record, "bond_cutoff").toDouble();
  data.soft = soft_nearest(record);
  data.elements = integers(entry(record, "elements"));
  data.inputs = strings(entry(record, "inputs"));
  data.outputs = strings(entry(record, "outputs"));
  data.conservative = entry(record, "conservative").toBool();
  if (record.contains("message_passing")) data.message_passing = record.at("message_passing").toBool();
  data.parallel = entry(record, "parallel").toBool();
  data.instructions = entry(record, "instructions").toStringRef();
  data.licence = entry(record, "licence").toStringRef();
  data.provenance = entry(record, "provenance").toStringRef();
  for (const char *name : {"theory", "reference"}) {  // read in Python; younger than some files
    if (record.contains(name)) record.at(name).toStringRef();
  }
  check_values(data);
  return data;
}

std::vector<SelfTest> self_tests(const Dictionary &record) {
  std::vector<SelfTest> tests;
  for (const c10::IValue &value : entry(record, "self_tests").toListRef()) {
    const auto test = value.toGenericDict();
    tests.push_back({tensors(entry(test, "inputs")), tensors(entry(test, "outputs"))});
  }
  return tests;
}

// Reads the version alone: the other entries of a newer schema are unknown.
void check_schema(const Dictionary &record) {
  const int64_t written = entry(record, "schema_version").toInt();
  if (written > schema::version) {
    throw std::runtime_error("it was written with schema " + std::to_string(written) + ", this build reads " +
                             std::to_string(schema::version) + "; update uip, or run 'uip export' again with this one");
  }
}

Record parse_record(const std::string &bytes) {
  const Dictionary dictionary = torch::pickle_load({bytes.begin(), bytes.end()}).toGenericDict();
  check_schema(dictionary);
  Record record;
  record.metadata = metadata(dictionary);
  record.self_tests = self_tests(dictionary);
  return record;
}

Record read_entries(const Bytes &bytes, const Trust &trust) {
  const auto archive = open_archive(bytes);
  if (!archive->hasRecord(record_name) || !archive->hasRecord(checksum_name)) {
    throw std::runtime_error(
        "it is an archive, but not one written by 'uip export'; run 'uip export MODEL -o model.pt2'");
  }
  const bool compiled = archive->hasRecord("archive_format");
  check_entries(*archive, compiled, bytes->size());
  check_content(*archive, trust);
  Record record = parse_record(content(*archive, record_name));
  record.kind = compiled ? Kind::compiled : Kind::script;
  record.checksum = content(*archive, checksum_name);
  return record;
}

}  // namespace

Record read_record(const Bytes &bytes, const Trust &trust) {
  try {
    return read_entries(bytes, trust);
  } catch (const c10::Error &) {  // its messages hold traces
    throw damaged();
  }
}

Record read_record_of_folder(const std::string &folder) {
  Record record = parse_record(UnpackedProgram::read(folder, UnpackedProgram::record));
  record.metadata.hash = UnpackedProgram::read(folder, UnpackedProgram::hash);
  return record;
}

}  // namespace uip
