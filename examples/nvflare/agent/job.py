"""The job without a client script: each site's own agent trains."""

import argparse

from nvflare.recipe import SimEnv

from privfl.adapters.nvflare import SecureRecipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_clients", type=int, default=3)
    parser.add_argument("--workspace", default="workspace")
    args = parser.parse_args()

    recipe = SecureRecipe(
        name="hello-agents",
        min_clients=args.n_clients,
        mechanism="none",
        open_server="federation:open_server",
        open_site="agents:open_site",
    )

    recipe.add_client_file("agents.py")

    env = SimEnv(num_clients=args.n_clients, workspace_root=args.workspace)
    run = recipe.execute(env)
    print("The result is in", run.get_result())


if __name__ == "__main__":
    main()
