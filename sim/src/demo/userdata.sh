# What UserData does without skep: it joins through one of the managers that were there when it was written.
# ROLE, TOKEN and MANAGERS (space-separated addresses) are what an operator has pasted.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    for manager in $MANAGERS; do
        timeout 2 bash -c ": >/dev/tcp/$manager/2377" 2>/dev/null || continue
        timeout 20 docker swarm join --token "$TOKEN" "$manager:2377" && exit 0
        # Docker goes on trying in the background, and refuses another join meanwhile.
        docker swarm leave --force
    done
    sleep 3
done
echo "no manager of $MANAGERS has let this $ROLE in" >&2
exit 1
