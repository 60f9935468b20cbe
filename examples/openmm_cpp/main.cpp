// Steps a System that holds a uip potential, from C++ alone: no Python interpreter in this process.
//     run PLUGIN SYSTEM.xml STATE.xml [STEPS]
#include <OpenMM.h>

#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>

template <typename Object>
std::unique_ptr<Object> read(const char *path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(std::string("no such file: ") + path);
  return std::unique_ptr<Object>(OpenMM::XmlSerializer::deserialize<Object>(file));
}

int run(int num_arguments, char **arguments) {
  if (num_arguments < 4) throw std::runtime_error("usage: run PLUGIN SYSTEM.xml STATE.xml [STEPS]");
  OpenMM::Platform::loadPluginLibrary(arguments[1]);
  const auto system = read<OpenMM::System>(arguments[2]);
  const auto state = read<OpenMM::State>(arguments[3]);
  OpenMM::VerletIntegrator integrator(0.001);
  OpenMM::Context context(*system, integrator, OpenMM::Platform::getPlatform("Reference"));
  context.setState(*state);
  const int steps = num_arguments > 4 ? std::atoi(arguments[4]) : 10;
  for (int step = 0; step <= steps; ++step) {
    const OpenMM::State now = context.getState(OpenMM::State::Energy);
    std::cout << step << std::setprecision(17) << "  " << now.getPotentialEnergy() << " kJ/mol\n";
    if (step < steps) integrator.step(1);
  }
  return 0;
}

int main(int num_arguments, char **arguments) {
  try {
    return run(num_arguments, arguments);
  } catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
