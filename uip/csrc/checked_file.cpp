#include "checked_file.h"

#include "model_source.h"
#include "program.h"
#include "torch_errors.h"
#include "unpack.h"

namespace uip {

struct CheckedFile::State {
  std::string name;
  Record record;
  ProgramPlace place;

  std::string where() const { return "cannot load " + name + ": "; }
};

namespace {

Record checked_record(const Bytes &bytes, const Trust &trust, const std::string &sha256) {
  const std::string hash = sha256_of(bytes);
  if (!sha256.empty() && sha256 != hash) {
    throw std::runtime_error("it must have sha256 " + sha256 + ", got " + hash +
                             "; it was damaged or replaced, copy it again");
  }
  Record record = read_record(bytes, trust);
  record.metadata.hash = hash;
  return record;
}

ProgramPlace unpacked(const Record &record, const Bytes &bytes) {
  const auto folder = std::make_shared<UnpackedProgram>(*open_archive(bytes), record.checksum, record.metadata.hash);
  return {bytes, folder->path(), folder};
}

}  // namespace

CheckedFile CheckedFile::read(const std::string &path, const Trust &trust) {
  State state{path, {}, {}};
  return with_prefix(state.where(), [&] {
    state.place.bytes = bytes_of_file(path);
    state.record = checked_record(state.place.bytes, trust, "");
    return CheckedFile(std::make_shared<State>(std::move(state)));
  });
}

CheckedFile CheckedFile::in_memory(const std::string &name, std::shared_ptr<const std::string> content,
                                   const Trust &trust, const std::string &sha256) {
  State state{name, {}, {bytes_in_memory(std::move(content)), {}, {}}};
  return with_prefix(state.where(), [&] {
    state.record = checked_record(state.place.bytes, trust, sha256);
    return CheckedFile(std::make_shared<State>(std::move(state)));
  });
}

CheckedFile CheckedFile::from_folder(const std::string &path, const std::string &folder) {
  State state{path, {}, {{}, folder, {}}};
  return with_prefix(state.where(), [&] {
    state.record = read_record_of_folder(folder);
    return CheckedFile(std::make_shared<State>(std::move(state)));
  });
}

const Metadata &CheckedFile::metadata() const { return state_->record.metadata; }

std::string CheckedFile::unpack() {
  State &state = *state_;
  if (state.record.kind != Kind::compiled) return "";
  return with_prefix(state.where(), [&] {
    check_fits(state.record.metadata);
    state.place = unpacked(state.record, state.place.bytes);
    return state.place.folder;
  });
}

std::unique_ptr<Model> CheckedFile::load(int device_index) const {
  const State &state = *state_;
  return with_prefix(state.where(), [&] {
    check_fits(state.record.metadata);
    const at::Device device = find_device(state.record.metadata, device_index);
    const bool packed = state.record.kind == Kind::compiled && state.place.folder.empty();
    return start(state.record, packed ? unpacked(state.record, state.place.bytes) : state.place, device);
  });
}

}  // namespace uip
